/* Backpropagation: kernels that change the weights as they say the error below, so that no gradient is ever held. */
#include "ep_inner.h"

static float passed(float x, float credit, const float *more, uint32_t at, int relu)
{
    if (relu && !(x > 0.0f))
        return 0.0f;
    return more ? credit + more[at] : credit;
}

void ep_dense_back(const ep_layer *l, const float *x, const float *delta, const float *more, float *credit, int relu,
                   float rate, uint32_t step)
{
    const ep_change change = ep_begin(l, rate, step);
    const uint32_t inputs = l->channels;
    for (uint32_t i = 0; i < inputs; i++) {
        const float given = x[i];
        float sum = 0.0f;
        for (uint32_t o = 0; o < l->out_channels; o++) {
            sum += (float)l->weights[o * inputs + i] * delta[o];
            ep_move(&change, o * inputs + i, change.factor * delta[o] * given);
        }
#if EP_INT8
        sum *= *l->scale;
#endif
        credit[i] = passed(given, sum, more, i, relu);
    }
    for (uint32_t o = 0; o < l->out_channels; o++)
        ep_move_bias(&change, o, delta[o]);
}

/* The output row or column that saw input `at` through tap `k`; -1 if none did. */
static int32_t seen_by(int32_t at, int32_t k, const uint8_t *pad, const uint8_t *dilation, const uint8_t *stride,
                       int32_t size)
{
    const int32_t from = at + *pad - k * *dilation;
    const int32_t place = *stride == 1 ? from : from / *stride;
    return from < 0 || place >= size || place * *stride != from ? -1 : place;
}

/* What the answers say of the value at (y, x) of one map: the sum over the kernels, and their taps, that met it. */
static float asked(const ep_layer *l, const ep_weight *w, const float *delta, int32_t y, int32_t x)
{
    const uint32_t share = l->out_channels / l->groups, answers = (uint32_t)l->out_height * l->out_width;
    const uint32_t fan = (uint32_t)(l->channels / l->groups) * l->kernel[0] * l->kernel[1];
    float sum = 0.0f;
    for (int32_t i = 0; i < l->kernel[0]; i++) {
        const int32_t row = seen_by(y, i, l->pad, l->dilation, l->stride, l->out_height);
        if (row < 0)
            continue;
        for (int32_t j = 0; j < l->kernel[1]; j++) {
            const int32_t column = seen_by(x, j, l->pad + 1, l->dilation + 1, l->stride + 1, l->out_width);
            if (column >= 0) {
                const ep_weight *weight = w + i * l->kernel[1] + j;
                const float *from = delta + row * l->out_width + column;
                for (uint32_t o = 0; o < share; o++, weight += fan, from += answers)
                    sum += (float)*weight * *from;
            }
        }
    }
    return sum;
}

void ep_conv_back(const ep_layer *l, const float *x, const float *delta, const float *more, float *credit, int relu,
                  float rate, uint32_t step, float *room)
{
    const ep_change change = ep_begin(l, rate, step);
    const uint32_t maps = l->channels / l->groups, share = l->out_channels / l->groups;
    const uint32_t taps = (uint32_t)l->kernel[0] * l->kernel[1];
    const uint32_t size = (uint32_t)l->height * l->width, answers = (uint32_t)l->out_height * l->out_width;
    for (uint32_t c = 0; c < l->channels; c++) { /* one input map at a time: its gradients, its credit, its weights */
        const uint32_t first = c / maps * share, number = first * maps * taps + c % maps * taps;
        const float *from = delta + first * answers;
        for (uint32_t o = 0; o < share; o++)
            for (uint32_t t = 0; t < taps; t++)
                room[o * taps + t] = ep_met(l, x + c * size, from + o * answers, (int32_t)(t / l->kernel[1]),
                                         (int32_t)(t % l->kernel[1]));
        for (uint32_t at = 0; at < size; at++) {
            const float given = x[c * size + at];
            float sum = 0.0f;
            if (!relu || given > 0.0f)
                sum = asked(l, l->weights + number, from, (int32_t)(at / l->width), (int32_t)(at % l->width));
#if EP_INT8
            sum *= *l->scale;
#endif
            credit[c * size + at] = passed(given, sum, more, c * size + at, relu);
        }
        for (uint32_t o = 0; o < share; o++)
            ep_apply(&change, number + o * maps * taps, room + o * taps, taps);
    }
    for (uint32_t o = 0; o < l->out_channels; o++)
        ep_move_bias(&change, o, ep_total(delta + o * answers, answers));
}

void ep_max_pool_back(const ep_pool *p, const float *x, const float *delta, const float *more, float *credit, int relu)
{
    const uint32_t rows = p->height / p->window[0], columns = p->width / p->window[1];
    for (uint32_t c = 0, at = 0; c < p->channels; c++)
        for (uint32_t r = 0; r < p->height; r++)
            for (uint32_t k = 0; k < p->width; k++, at++) {
                const uint32_t i = r / p->window[0], j = k / p->window[1];
                float sum = 0.0f;
                /* credit may be x: a window is asked when its last value is, and all its values are set then */
                if (i >= rows || j >= columns) {
                    credit[at] = passed(x[at], 0.0f, more, at, relu);
                    continue;
                }
                if (r % p->window[0] != p->window[0] - 1u || k % p->window[1] != p->window[1] - 1u)
                    continue;
                const uint32_t corner = at - (p->window[0] - 1u) * p->width - (p->window[1] - 1u);
                uint32_t best = corner;
                for (uint32_t a = 0; a < p->window[0]; a++)
                    for (uint32_t b = 0; b < p->window[1]; b++)
                        if (x[corner + a * p->width + b] > x[best])
                            best = corner + a * p->width + b;
                sum = delta[(c * rows + i) * columns + j];
                for (uint32_t a = 0; a < p->window[0]; a++)
                    for (uint32_t b = 0; b < p->window[1]; b++) {
                        const uint32_t to = corner + a * p->width + b;
                        credit[to] = passed(x[to], to == best ? sum : 0.0f, more, to, relu);
                    }
            }
}

void ep_mean_pool_back(const ep_pool *p, const float *x, const float *delta, const float *more, float *credit, int relu)
{
    const uint32_t rows = p->height / p->window[0], columns = p->width / p->window[1];
    const float size = (float)(p->window[0] * p->window[1]);
    for (uint32_t c = 0, at = 0; c < p->channels; c++)
        for (uint32_t r = 0; r < p->height; r++)
            for (uint32_t k = 0; k < p->width; k++, at++) {
                const uint32_t i = r / p->window[0], j = k / p->window[1];
                const int counted = i < rows && j < columns;
                credit[at] = passed(x[at], counted ? delta[(c * rows + i) * columns + j] / size : 0.0f, more, at, relu);
            }
}

/* Through y = (x - mean) * factor: delta without its share along y, and without its mean if the values were centred. */
static void normalised(const ep_pool *p, const float *x, const float *delta, const float *more, float *credit, int relu,
                       int centred, int l2)
{
    const ep_norm n = ep_norm_of(p, x, centred, l2);
    const float mean = centred ? ep_total(delta, n.size) * n.share : 0.0f;
    float along = 0.0f;
    for (uint32_t i = 0; i < n.size; i++)
        along += delta[i] * ((x[i] - n.mean) * n.factor);
    along *= n.share;
    for (uint32_t i = 0; i < n.size; i++) {
        const float y = (x[i] - n.mean) * n.factor;
        credit[i] = passed(x[i], n.factor * (delta[i] - mean - y * along), more, i, relu);
    }
}

void ep_rms_norm_back(const ep_pool *p, const float *x, const float *delta, const float *more, float *credit, int relu)
{
    normalised(p, x, delta, more, credit, relu, 0, 0);
}

void ep_l2_norm_back(const ep_pool *p, const float *x, const float *delta, const float *more, float *credit, int relu)
{
    normalised(p, x, delta, more, credit, relu, 0, 1);
}

void ep_layer_norm_back(const ep_pool *p, const float *x, const float *delta, const float *more, float *credit, int relu)
{
    normalised(p, x, delta, more, credit, relu, 1, 0);
}

void ep_gate(uint32_t size, const float *x, const float *delta, const float *more, float *credit, int relu)
{
    for (uint32_t i = 0; i < size; i++)
        credit[i] = passed(x[i], delta[i], more, i, relu);
}
