/* Kernels of a training step. Each changes the weights as it goes: no gradient of a layer is ever held. */
#include <string.h>

#include "ep_inner.h"

void ep_dense_pair(const ep_layer *l, const float *x, const float *h, float *g, float rate, uint32_t step)
{
    const ep_change change = ep_begin(l, rate, step);
    const uint32_t inputs = l->channels;
    for (uint32_t o = 0; o < l->out_channels; o++) {
        const ep_weight *w = l->weights + o * inputs;
        float sum = 0.0f, delta;
        for (uint32_t i = 0; i < inputs; i++)
            sum += (float)w[i] * x[i];
        sum = ep_answer(l, sum, o);
        delta = h[o] - sum;
        g[o] = sum;
        if (delta == 0.0f)
            continue;
        for (uint32_t i = 0; i < inputs; i++)
            ep_move(&change, o * inputs + i, change.factor * delta * x[i]);
        ep_move_bias(&change, o, delta);
    }
}

void ep_conv_pair(const ep_layer *l, const float *x, const float *h, float *g, float rate, uint32_t step, float *room)
{
    const ep_change change = ep_begin(l, rate, step);
    const uint32_t maps = l->channels / l->groups, share = l->out_channels / l->groups;
    const uint32_t fan = maps * l->kernel[0] * l->kernel[1], size = (uint32_t)l->height * l->width;
    for (uint32_t o = 0; o < l->out_channels; o++) {
        const float *from = x + o / share * maps * size;
        const ep_weight *w = l->weights + o * fan;
        float total = 0.0f;
        memset(room, 0, fan * sizeof *room);
        for (int32_t r = 0; r < l->out_height; r++)
            for (int32_t k = 0; k < l->out_width; k++) {
                const ep_patch at = ep_patch_at(l, r, k);
                const float now = ep_answer(l, ep_under(l, w, from, maps, &at), o);
                const float delta = *h++ - now;
                *g++ = now;
                if (delta == 0.0f)
                    continue;
                total += delta;
                ep_gather(l, room, delta, from, maps, &at);
            }
        ep_apply(&change, o * fan, room, fan);
        ep_move_bias(&change, o, total);
    }
}

void ep_dense_learn(const ep_layer *l, const float *x, const float *delta, float rate, uint32_t step)
{
    const ep_change change = ep_begin(l, rate, step);
    const uint32_t inputs = l->channels;
    for (uint32_t o = 0; o < l->out_channels; o++) {
        if (delta[o] == 0.0f)
            continue;
        for (uint32_t i = 0; i < inputs; i++)
            ep_move(&change, o * inputs + i, change.factor * delta[o] * x[i]);
        ep_move_bias(&change, o, delta[o]);
    }
}

void ep_conv_learn(const ep_layer *l, const float *x, const float *delta, float rate, uint32_t step)
{
    const ep_change change = ep_begin(l, rate, step);
    for (uint32_t o = 0; o < l->out_channels; o++, delta += (uint32_t)l->out_height * l->out_width)
        ep_change_kernel(&change, l, x, delta, o);
}

void ep_dense_aim(const ep_layer *l, const float *x, const float *h, uint32_t target, uint32_t key, float bound, float rate,
                  uint32_t step)
{
    const ep_change change = ep_begin(l, rate, step);
    const uint32_t inputs = l->channels;
    for (uint32_t o = 0; o < l->out_channels; o++) {
        const float delta = ep_feedback(key, target * l->out_channels + o, bound);
        if (l->relu && !(h[o] > 0.0f))
            continue;
        for (uint32_t i = 0; i < inputs; i++)
            ep_move(&change, o * inputs + i, change.factor * delta * x[i]);
        ep_move_bias(&change, o, delta);
    }
}

void ep_conv_aim(const ep_layer *l, const float *x, const float *h, uint32_t target, uint32_t key, float bound, float rate,
                 uint32_t step, float *room)
{
    const ep_change change = ep_begin(l, rate, step);
    const uint32_t answers = (uint32_t)l->out_height * l->out_width;
    for (uint32_t o = 0, at = 0; o < l->out_channels; o++) {
        for (uint32_t p = 0; p < answers; p++, at++) {
            const float row = ep_feedback(key, target * l->out_channels * answers + at, bound);
            room[p] = l->relu && !(h[at] > 0.0f) ? 0.0f : row;
        }
        ep_change_kernel(&change, l, x, room, o);
    }
}
