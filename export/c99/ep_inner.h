/* The innermost loops, inlined where they are used: a unit's answer, a kernel at one position, what changes a weight. */
#ifndef EP_INNER_H
#define EP_INNER_H

#include "ep_kernels.h"

/* The nearest integer, ties to even, of what is below 2**22: what is added is 1.5 * 2**23. */
static inline float ep_nearest(float x)
{
    return (x + 12582912.0f) - 12582912.0f;
}

/* A unit's current, from the sum of its weights times its input. */
static inline float ep_current(const ep_layer *l, float sum, uint32_t unit)
{
#if EP_INT8
    sum *= *l->scale;
#endif
    return l->bias ? sum + l->bias[unit] : sum;
}

/* What a unit answers to that sum. */
static inline float ep_answer(const ep_layer *l, float sum, uint32_t unit)
{
    sum = ep_current(l, sum, unit);
    return l->relu && sum < 0.0f ? 0.0f : sum;
}

typedef struct {
    int32_t first, end;
} ep_span;

/* The taps of a kernel that fall on the map: those k with 0 <= start + k * step < size. */
static inline ep_span ep_within(int32_t start, int32_t step, int32_t taps, int32_t size)
{
    ep_span s = {0, taps};
    while (s.first < taps && start + s.first * step < 0)
        s.first++;
    while (s.end > s.first && start + (s.end - 1) * step >= size)
        s.end--;
    return s;
}

/* Where a kernel lies on the maps when it makes one output position. */
typedef struct {
    int32_t top, left;
    ep_span rows, columns;
} ep_patch;

static inline ep_patch ep_patch_at(const ep_layer *l, int32_t y, int32_t x)
{
    ep_patch p;
    p.top = y * l->stride[0] - l->pad[0];
    p.left = x * l->stride[1] - l->pad[1];
    p.rows = ep_within(p.top, l->dilation[0], l->kernel[0], l->height);
    p.columns = ep_within(p.left, l->dilation[1], l->kernel[1], l->width);
    return p;
}

/* Whether the kernel is one value, and on the map: the case of pointwise convolutions, worth a loop of its own. */
static inline int ep_one_tap(const ep_layer *l, const ep_patch *p)
{
#if EP_PADDED_TAPS /* a tap above or left of the map has a span that begins at its end */
    if (p->rows.first || p->columns.first)
        return 0;
#endif
    return l->kernel[0] * l->kernel[1] == 1 && p->rows.end == 1 && p->columns.end == 1;
}

/* Whether a row of the kernel is three values side by side, all on the map: the common case, worth no loop. */
static inline int ep_three(const ep_layer *l, const ep_patch *p)
{
    return p->columns.first == 0 && p->columns.end == 3 && l->dilation[1] == 1;
}

/* Kernels [maps][kernel] times the patch under them. */
static inline float ep_under(const ep_layer *l, const ep_weight *w, const float *x, uint32_t maps, const ep_patch *p)
{
    const int32_t width = l->width, step = l->dilation[1], three = ep_three(l, p);
    float sum = 0.0f;
    if (ep_one_tap(l, p)) {
        x += p->top * width + p->left;
        for (uint32_t c = 0; c < maps; c++)
            sum += (float)w[c] * x[c * l->height * (uint32_t)width];
        return sum;
    }
    for (uint32_t c = 0; c < maps; c++, w += l->kernel[0] * l->kernel[1], x += l->height * width)
        for (int32_t i = p->rows.first; i < p->rows.end; i++) {
            const float *row = x + (p->top + i * l->dilation[0]) * width + p->left;
            const ep_weight *weight = w + i * l->kernel[1];
            if (three) {
                sum += (float)weight[0] * row[0];
                sum += (float)weight[1] * row[1];
                sum += (float)weight[2] * row[2];
            } else {
                for (int32_t j = p->columns.first; j < p->columns.end; j++)
                    sum += (float)weight[j] * row[j * step];
            }
        }
    return sum;
}

/* Gradient [maps][kernel] += delta times the patch. */
static inline void ep_gather(const ep_layer *l, float *gradient, float delta, const float *x, uint32_t maps,
                             const ep_patch *p)
{
    const int32_t width = l->width, step = l->dilation[1], three = ep_three(l, p);
    if (ep_one_tap(l, p)) {
        x += p->top * width + p->left;
        for (uint32_t c = 0; c < maps; c++)
            gradient[c] += delta * x[c * l->height * (uint32_t)width];
        return;
    }
    for (uint32_t c = 0; c < maps; c++, gradient += l->kernel[0] * l->kernel[1], x += l->height * width)
        for (int32_t i = p->rows.first; i < p->rows.end; i++) {
            const float *row = x + (p->top + i * l->dilation[0]) * width + p->left;
            float *to = gradient + i * l->kernel[1];
            if (three) {
                to[0] += delta * row[0];
                to[1] += delta * row[1];
                to[2] += delta * row[2];
            } else {
                for (int32_t j = p->columns.first; j < p->columns.end; j++)
                    to[j] += delta * row[j * step];
            }
        }
}

/* How the weights of one layer change in one step. Weights of layers that learn are in RAM: see ep_parts. */
typedef struct {
    ep_weight *weights;
    float *bias;
    float rate;   /* of the bias, which is in floats */
    float factor; /* of the weights: rate, or rate / scale */
    uint32_t key;
} ep_change;

static inline ep_change ep_begin(const ep_layer *l, float rate, uint32_t step)
{
    ep_change c;
    c.weights = (ep_weight *)l->weights;
    c.bias = (float *)l->bias;
    c.rate = rate;
#if EP_INT8
    c.factor = rate / *l->scale;
    c.key = ep_key(l->seed, l->before + step);
#else
    c.factor = rate;
    c.key = step;
#endif
    return c;
}

/* Subtract a change from weight number `at`. A code moves to one of its two neighbours, with the probability that makes
 * the mean right; the random bits depend on (layer, step, number) alone, so the order of updates does not matter. */
static inline void ep_move(const ep_change *c, uint32_t at, float change)
{
#if EP_INT8
    int32_t drawn;
    float moved;
    if (change == 0.0f || change != change)
        return;
    drawn = (int32_t)(ep_bits(c->key, at) >> 9);
    if (drawn >= 0x400000)
        drawn -= 0x800000;
    moved = ((float)drawn + 0.5f) * (1.0f / 8388608.0f) - change;
    moved = moved > 2.0f * EP_LIMIT ? 2.0f * EP_LIMIT : moved < -2.0f * EP_LIMIT ? -2.0f * EP_LIMIT : moved;
    {
        const int32_t code = c->weights[at] + (int32_t)ep_nearest(moved);
        c->weights[at] = (ep_weight)(code > EP_LIMIT ? EP_LIMIT : code < -EP_LIMIT ? -EP_LIMIT : code);
    }
#else
    c->weights[at] -= change;
#endif
}

static inline void ep_move_bias(const ep_change *c, uint32_t unit, float delta)
{
    if (c->bias)
        c->bias[unit] -= c->rate * delta;
}

static inline void ep_apply(const ep_change *c, uint32_t from, const float *gradient, uint32_t size)
{
    for (uint32_t i = 0; i < size; i++)
        ep_move(c, from + i, c->factor * gradient[i]);
}

/* Gradient of one kernel weight: the sum over positions of delta times the value that the weight met. */
static inline float ep_met(const ep_layer *l, const float *x, const float *delta, int32_t i, int32_t j)
{
    const int32_t top = i * l->dilation[0] - l->pad[0], left = j * l->dilation[1] - l->pad[1];
    const ep_span rows = ep_within(top, l->stride[0], l->out_height, l->height);
    const ep_span columns = ep_within(left, l->stride[1], l->out_width, l->width);
    float sum = 0.0f;
    for (int32_t r = rows.first; r < rows.end; r++) {
        const float *line = x + (top + r * l->stride[0]) * l->width + left;
        for (int32_t k = columns.first; k < columns.end; k++)
            sum += delta[r * l->out_width + k] * line[k * l->stride[1]];
    }
    return sum;
}

static inline float ep_total(const float *delta, uint32_t size)
{
    float sum = 0.0f;
    for (uint32_t i = 0; i < size; i++)
        sum += delta[i];
    return sum;
}

/* Kernel o, by the delta of its map of answers. */
static inline void ep_change_kernel(const ep_change *c, const ep_layer *l, const float *x, const float *delta,
                                    uint32_t o)
{
    const uint32_t maps = l->channels / l->groups, share = l->out_channels / l->groups;
    const uint32_t size = (uint32_t)l->height * l->width;
    uint32_t number = o * maps * l->kernel[0] * l->kernel[1];
    x += o / share * maps * size;
    for (uint32_t map = 0; map < maps; map++, x += size)
        for (int32_t i = 0; i < l->kernel[0]; i++)
            for (int32_t j = 0; j < l->kernel[1]; j++)
                ep_move(c, number++, c->factor * ep_met(l, x, delta, i, j));
    ep_move_bias(c, o, ep_total(delta, (uint32_t)l->out_height * l->out_width));
}

/* Normalisation of a sample: (x - mean) * factor, where factor makes the mean of its squares 1, or with l2 their sum. */
typedef struct {
    float mean, factor, share; /* share: of one value in the mean or the sum */
    uint32_t size;
} ep_norm;

static inline ep_norm ep_norm_of(const ep_pool *p, const float *x, int centred, int l2)
{
    ep_norm n = {0.0f, 0.0f, 1.0f, (uint32_t)p->channels * p->height * p->width};
    float power = 0.0f;
    if (centred) {
        float off = 0.0f; /* what rounding left of the mean */
        n.mean = ep_total(x, n.size) / (float)n.size;
        for (uint32_t i = 0; i < n.size; i++)
            off += x[i] - n.mean;
        n.mean += off / (float)n.size;
    }
    for (uint32_t i = 0; i < n.size; i++)
        power += (x[i] - n.mean) * (x[i] - n.mean);
    if (!l2) {
        power /= (float)n.size;
        n.share /= (float)n.size;
    }
    n.factor = ep_rsqrt(power + 1e-8f);
    return n;
}

#endif
