/* Forward kernels, the output error, and the numbers that are drawn rather than stored. */
#include "ep_inner.h"

void ep_dense(const ep_layer *l, const float *x, float *y)
{
    const ep_weight *w = l->weights;
    const uint32_t inputs = l->channels;
    for (uint32_t o = 0; o < l->out_channels; o++, w += inputs) {
        float sum = 0.0f;
        for (uint32_t i = 0; i < inputs; i++)
            sum += (float)w[i] * x[i];
        y[o] = ep_answer(l, sum, o);
    }
}

void ep_conv(const ep_layer *l, const float *x, float *y)
{
    const uint32_t maps = l->channels / l->groups, share = l->out_channels / l->groups;
    const uint32_t fan = maps * l->kernel[0] * l->kernel[1], size = (uint32_t)l->height * l->width;
    const ep_weight *w = l->weights;
    for (uint32_t o = 0; o < l->out_channels; o++, w += fan)
        for (int32_t r = 0; r < l->out_height; r++)
            for (int32_t k = 0; k < l->out_width; k++) {
                const ep_patch at = ep_patch_at(l, r, k);
                *y++ = ep_answer(l, ep_under(l, w, x + o / share * maps * size, maps, &at), o);
            }
}

void ep_max_pool(const ep_pool *p, const float *x, float *y)
{
    const uint32_t rows = p->height / p->window[0], columns = p->width / p->window[1];
    for (uint32_t c = 0; c < p->channels; c++, x += p->height * p->width)
        for (uint32_t r = 0; r < rows; r++)
            for (uint32_t k = 0; k < columns; k++) {
                const float *corner = x + r * p->window[0] * p->width + k * p->window[1];
                float most = *corner;
                for (uint32_t i = 0; i < p->window[0]; i++)
                    for (uint32_t j = 0; j < p->window[1]; j++)
                        if (corner[i * p->width + j] > most)
                            most = corner[i * p->width + j];
                *y++ = most;
            }
}

void ep_mean_pool(const ep_pool *p, const float *x, float *y)
{
    const uint32_t rows = p->height / p->window[0], columns = p->width / p->window[1];
    const float size = (float)(p->window[0] * p->window[1]);
    for (uint32_t c = 0; c < p->channels; c++, x += p->height * p->width)
        for (uint32_t r = 0; r < rows; r++)
            for (uint32_t k = 0; k < columns; k++) {
                const float *corner = x + r * p->window[0] * p->width + k * p->window[1];
                float sum = 0.0f;
                for (uint32_t i = 0; i < p->window[0]; i++)
                    for (uint32_t j = 0; j < p->window[1]; j++)
                        sum += corner[i * p->width + j];
                *y++ = sum / size;
            }
}

static void normalise(const ep_pool *p, const float *x, float *y, int centred, int l2)
{
    const ep_norm n = ep_norm_of(p, x, centred, l2);
    for (uint32_t i = 0; i < n.size; i++)
        y[i] = (x[i] - n.mean) * n.factor;
}

void ep_rms_norm(const ep_pool *p, const float *x, float *y)
{
    normalise(p, x, y, 0, 0);
}

void ep_l2_norm(const ep_pool *p, const float *x, float *y)
{
    normalise(p, x, y, 0, 1);
}

void ep_layer_norm(const ep_pool *p, const float *x, float *y)
{
    normalise(p, x, y, 1, 0);
}

void ep_add(uint32_t size, const float *a, const float *b, float *y, int relu)
{
    for (uint32_t i = 0; i < size; i++) {
        const float sum = a[i] + b[i];
        y[i] = relu && sum < 0.0f ? 0.0f : sum;
    }
}

void ep_round(uint32_t size, const float *x, float *y, float scale, float low, float high)
{
    for (uint32_t i = 0; i < size; i++) {
        const float code = x[i] / scale;
        y[i] = (code < low ? low : code > high ? high : ep_nearest(code)) * scale;
    }
}

uint32_t ep_largest(uint32_t size, const float *z)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < size; i++)
        if (z[i] > z[best])
            best = i;
    return best;
}

int ep_finite(uint32_t size, const float *z)
{
    for (uint32_t i = 0; i < size; i++)
        if (!(z[i] - z[i] == 0.0f))
            return 0;
    return 1;
}

float ep_exp(float x)
{
    /* exp(x) = 2**n * exp(r), |r| <= ln(2) / 2; ln(2) in two parts, so that r loses no bits. */
    if (!(x > -87.0f))
        return 0.0f;
    const int32_t n = (int32_t)(x * 1.44269504f - 0.5f);
    const float r = (x - (float)n * 0.693359375f) + (float)n * 2.12194440e-4f;
    float sum = 1.0f / 720.0f;
    sum = sum * r + 1.0f / 120.0f;
    sum = sum * r + 1.0f / 24.0f;
    sum = sum * r + 1.0f / 6.0f;
    sum = sum * r + 0.5f;
    sum = sum * r + 1.0f;
    sum = sum * r + 1.0f;
    const union {
        uint32_t bits;
        float value;
    } power = {(uint32_t)(n + 127) << 23};
    return sum * power.value;
}

float ep_rsqrt(float x)
{
    /* Newton's steps from a guess by halving the exponent. */
    union {
        float value;
        uint32_t bits;
    } guess = {x};
    guess.bits = 0x5F3759DFu - (guess.bits >> 1);
    for (int i = 0; i < 4; i++)
        guess.value *= 1.5f - 0.5f * x * guess.value * guess.value;
    return guess.value;
}

void ep_output_error(uint32_t size, float *z, uint32_t target)
{
    const float most = z[ep_largest(size, z)];
    float sum = 0.0f;
    for (uint32_t i = 0; i < size; i++) {
        z[i] = ep_exp(z[i] - most);
        sum += z[i];
    }
    for (uint32_t i = 0; i < size; i++)
        z[i] /= sum;
    z[target] -= 1.0f;
}

#define GOLDEN 0x9E3779B9u

uint32_t ep_mix(uint32_t h)
{
    h = (h ^ (h >> 16)) * 0x7FEB352Du;
    h = (h ^ (h >> 15)) * 0x846CA68Bu;
    return h ^ (h >> 16);
}

uint32_t ep_bits(uint32_t key, uint32_t index)
{
    return ep_mix(index * GOLDEN + key);
}

uint32_t ep_key(uint32_t key, uint32_t part)
{
    return ep_mix(key * 31u + part + GOLDEN);
}

float ep_feedback(uint32_t key, uint32_t index, float bound)
{
    const int32_t drawn = (int32_t)(ep_bits(key, index) >> 8); /* the sign bit is bit 23 */
    return (float)(drawn < 0x800000 ? drawn : drawn - 0x1000000) * bound;
}

/* What the error e says of value i of a map [classes][size]. */
static float sent(uint32_t size, uint32_t classes, const float *e, uint32_t i, uint32_t key, float bound)
{
    float sum = 0.0f;
    for (uint32_t c = 0; c < classes; c++)
        sum += e[c] * ep_feedback(key, c * size + i, bound);
    return sum;
}

void ep_modulate(uint32_t inputs, uint32_t classes, const float *x, const float *e, float *y, uint32_t key, float bound)
{
    for (uint32_t i = 0; i < inputs; i++)
        y[i] = x[i] - sent(inputs, classes, e, i, key, bound);
}

void ep_send(uint32_t size, uint32_t classes, const float *e, const float *h, float *credit, uint32_t key, float bound,
             int relu)
{
    for (uint32_t i = 0; i < size; i++)
        credit[i] = relu && !(h[i] > 0.0f) ? 0.0f : sent(size, classes, e, i, key, bound);
}
