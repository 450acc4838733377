/* Kernels of local heads: every hidden layer learns from the error of a small readout of its own, its head. */
#include "ep_inner.h"

static float drawn_or_learned(const ep_head *h, uint32_t at)
{
    return h->weights ? h->weights[at] : ep_feedback(h->key, at, h->bound);
}

void ep_head_error(const ep_head *h, const float *p, uint32_t target, float *e)
{
    for (uint32_t c = 0, at = 0; c < h->classes; c++) {
        float sum = 0.0f;
        for (uint32_t i = 0; i < h->size; i++, at++)
            sum += drawn_or_learned(h, at) * p[i];
        e[c] = sum;
    }
    ep_output_error(h->classes, e, target);
}

/* What the error says of value i that the head reads. */
static float told(const ep_head *h, const float *e, uint32_t i)
{
    float sum = 0.0f;
    for (uint32_t c = 0, at = i; c < h->classes; c++, at += h->size)
        sum += e[c] * (h->left ? h->weights[at] + ep_feedback(h->key, at, *h->left) : ep_feedback(h->key, at, h->bound));
    return sum;
}

/* Whether a second answer depends on a current that a ReLU has cut off, and that the answer does not tell any more. */
static int cut_off(const ep_layer *l, const ep_head *h, float answer, float credit)
{
    return l->relu && !(answer > 0.0f) && h->strength > 0.0f && credit < 0.0f;
}

/* What a unit learns from; `current` is of no account where the unit is silent, unless it is cut_off. */
static float lesson(const ep_layer *l, const ep_head *h, float answer, float current, float credit)
{
    float again;
    if (!(h->strength > 0.0f))
        return l->relu && !(answer > 0.0f) ? 0.0f : credit;
    again = current - h->strength * credit;
    if (l->relu && again < 0.0f)
        again = 0.0f;
    return (answer - again) / h->strength;
}

void ep_dense_head(const ep_layer *l, const ep_head *h, const float *x, const float *y, const float *e, float rate,
                   uint32_t step)
{
    const ep_change change = ep_begin(l, rate, step);
    const uint32_t inputs = l->channels;
    for (uint32_t o = 0; o < l->out_channels; o++) {
        const ep_weight *w = l->weights + o * inputs;
        const float credit = told(h, e, o);
        float current = y[o], delta;
        if (cut_off(l, h, y[o], credit)) {
            float sum = 0.0f;
            for (uint32_t i = 0; i < inputs; i++)
                sum += (float)w[i] * x[i];
            current = ep_current(l, sum, o);
        }
        delta = lesson(l, h, y[o], current, credit);
        if (delta == 0.0f)
            continue;
        for (uint32_t i = 0; i < inputs; i++)
            ep_move(&change, o * inputs + i, change.factor * delta * x[i]);
        ep_move_bias(&change, o, delta);
    }
}

void ep_conv_head(const ep_layer *l, const ep_head *h, const float *x, const float *y, const float *p, const float *e,
                  float rate, uint32_t step, float *room)
{
    const ep_change change = ep_begin(l, rate, step);
    const uint32_t maps = l->channels / l->groups, share = l->out_channels / l->groups;
    const uint32_t fan = maps * l->kernel[0] * l->kernel[1], size = (uint32_t)l->height * l->width;
    const uint32_t rows = h->pool.height / h->pool.window[0], columns = h->pool.width / h->pool.window[1];
    const uint32_t positions = (uint32_t)l->out_height * l->out_width, cells = rows * columns;
    const float window = (float)(h->pool.window[0] * h->pool.window[1]);
    float *credits = room + positions;
    for (uint32_t o = 0; o < l->out_channels; o++, y += positions, p += cells) {
        const float *from = x + o / share * maps * size;
        for (uint32_t i = 0; i < cells; i++)
            credits[i] = told(h, e, o * cells + i);
        for (uint32_t r = 0, at = 0; r < l->out_height; r++)
            for (uint32_t k = 0; k < l->out_width; k++, at++) {
                const uint32_t cell = r / h->pool.window[0] * columns + k / h->pool.window[1];
                float credit = h->largest ? credits[cell] : credits[cell] / window, current = y[at];
                if (h->largest && y[at] != p[cell])
                    credit = 0.0f;
                if (cut_off(l, h, y[at], credit)) {
                    const ep_patch here = ep_patch_at(l, (int32_t)r, (int32_t)k);
                    current = ep_current(l, ep_under(l, l->weights + o * fan, from, maps, &here), o);
                }
                room[at] = lesson(l, h, y[at], current, credit);
            }
        ep_change_kernel(&change, l, x, room, o);
    }
}

void ep_head_learn(const ep_head *h, const float *p, const float *e)
{
    for (uint32_t c = 0, at = 0; c < h->classes; c++)
        for (uint32_t i = 0; i < h->size; i++, at++)
            h->weights[at] = h->weights[at] * h->keep - h->rate * (e[c] * p[i]);
    if (h->left)
        *h->left *= h->keep;
}
