/* The kernels that the generated model.c calls. A network is a row of layers; maps are [channels][height][width] in
 * floats, one sample at a time. Every kernel sums in the order in which it is written, so that all machines with IEEE 754
 * floats get the same bits; compile with -ffp-contract=off and without -ffast-math. */
#ifndef EP_KERNELS_H
#define EP_KERNELS_H

#include "edgepep.h"

#if EP_INT8
typedef int8_t ep_weight; /* a code, in units of its layer's scale */
#else
typedef float ep_weight;
#endif

/* Synapses and what answers their current. kernel, stride, pad (above, left) and dilation are of convolutions. */
typedef struct {
    uint16_t channels, height, width;
    uint16_t out_channels, out_height, out_width;
    uint8_t kernel[2], stride[2], pad[2], dilation[2];
    uint16_t groups;
    uint8_t relu;
    const ep_weight *weights; /* [out][in / groups][kernel]; in RAM if the layer learns, else in flash */
    const float *bias;        /* or 0 */
    const float *scale;       /* of codes; 0 with weights in floats */
    uint32_t seed;            /* of the rounding of codes */
    uint32_t before;          /* updates made, less those of the layer that made most */
} ep_layer;

typedef struct {
    uint16_t channels, height, width;
    uint8_t window[2]; /* also the stride */
} ep_pool;

/* The head of a layer, under local heads: a readout of its answer, pooled by `pool`, and what its error comes back by. */
typedef struct {
    ep_pool pool;    /* of the answer */
    uint8_t largest; /* a window's largest value is read, else its mean */
    uint16_t classes;
    uint32_t size;  /* values that are read */
    float *weights; /* [classes][size], in RAM; 0: they are drawn, and rest */
    float *left;    /* in RAM: the bound of what the feedback has beside the weights, which decays; 0: it is all drawn */
    uint32_t key;
    float bound;    /* of what is drawn and stays */
    float rate;     /* of the head's own learning */
    float keep;     /* what a step leaves of weights and `left` */
    float strength; /* of a layer's second answer; 0: f' instead */
} ep_head;

/* Forward: from x to the answer y; they must not overlap. */
void ep_dense(const ep_layer *l, const float *x, float *y);
void ep_conv(const ep_layer *l, const float *x, float *y);
void ep_max_pool(const ep_pool *p, const float *x, float *y);
void ep_mean_pool(const ep_pool *p, const float *x, float *y);
void ep_rms_norm(const ep_pool *p, const float *x, float *y); /* here and in the next two, y may be x */
void ep_l2_norm(const ep_pool *p, const float *x, float *y);
void ep_layer_norm(const ep_pool *p, const float *x, float *y);
void ep_add(uint32_t size, const float *a, const float *b, float *y, int relu); /* y may be a or b */
void ep_round(uint32_t size, const float *x, float *y, float scale, float low, float high); /* to a grid; y may be x */
uint32_t ep_largest(uint32_t size, const float *z);
int ep_finite(uint32_t size, const float *z);

/* The error and where it goes. z becomes softmax(z) - one-hot(target), in place. */
void ep_output_error(uint32_t size, float *z, uint32_t target);
float ep_exp(float x);   /* for x <= 0, the same bits everywhere */
float ep_rsqrt(float x); /* 1 / sqrt(x) for x > 0, the same bits everywhere */

/* y = x - F e, where F [classes][inputs] is drawn from a key and never stored; y may be x. */
void ep_modulate(uint32_t inputs, uint32_t classes, const float *x, const float *e, float *y, uint32_t key, float bound);

/* DFA: credit = e D, cut off where the answer h <= 0 if `relu`. D [classes][size] is drawn from a key and never stored;
 * credit may be h, and h 0 without `relu`. */
void ep_send(uint32_t size, uint32_t classes, const float *e, const float *h, float *credit, uint32_t key, float bound,
             int relu);

/* PEPITA's hidden layer: g = answer to x, weights -= rate * (h - g) x, unit after unit; g may be h. `room` is
 * in / groups * kernel floats. */
void ep_dense_pair(const ep_layer *l, const float *x, const float *h, float *g, float rate, uint32_t step);
void ep_conv_pair(const ep_layer *l, const float *x, const float *h, float *g, float rate, uint32_t step, float *room);

/* weights -= rate * delta x. */
void ep_dense_learn(const ep_layer *l, const float *x, const float *delta, float rate, uint32_t step);
void ep_conv_learn(const ep_layer *l, const float *x, const float *delta, float rate, uint32_t step);

/* DRTP's hidden layer, whose answer to x is h: the same with the target's row of D for delta, cut off with h, unit after
 * unit; without `relu` h may be 0. `room` is out_height * out_width floats. */
void ep_dense_aim(const ep_layer *l, const float *x, const float *h, uint32_t target, uint32_t key, float bound, float rate,
                  uint32_t step);
void ep_conv_aim(const ep_layer *l, const float *x, const float *h, uint32_t target, uint32_t key, float bound, float rate,
                 uint32_t step, float *room);

/* Local heads. e = softmax(head of p) - one-hot(target), where p is the layer's answer, pooled. */
void ep_head_error(const ep_head *h, const float *p, uint32_t target, float *e);
/* A hidden layer whose answer to x is y: weights -= rate * delta x. delta is the head's credit times f', or the difference
 * of y and a second answer, to the current minus strength * credit, over the strength. `room` is out_height * out_width
 * floats and one for each window of a map. */
void ep_dense_head(const ep_layer *l, const ep_head *h, const float *x, const float *y, const float *e, float rate,
                   uint32_t step);
void ep_conv_head(const ep_layer *l, const ep_head *h, const float *x, const float *y, const float *p, const float *e,
                  float rate, uint32_t step, float *room);
void ep_head_learn(const ep_head *h, const float *p, const float *e);

/* Backpropagation: weights -= rate * delta x, and the error below, `credit` = (delta through the weights as they were,
 * + `more` if it is not 0), cut off where x <= 0 if `relu`. credit may be x. `room` is out / groups * kernel floats. */
void ep_dense_back(const ep_layer *l, const float *x, const float *delta, const float *more, float *credit, int relu,
                   float rate, uint32_t step);
void ep_conv_back(const ep_layer *l, const float *x, const float *delta, const float *more, float *credit, int relu,
                  float rate, uint32_t step, float *room);
void ep_max_pool_back(const ep_pool *p, const float *x, const float *delta, const float *more, float *credit, int relu);
void ep_mean_pool_back(const ep_pool *p, const float *x, const float *delta, const float *more, float *credit, int relu);
void ep_rms_norm_back(const ep_pool *p, const float *x, const float *delta, const float *more, float *credit, int relu);
void ep_l2_norm_back(const ep_pool *p, const float *x, const float *delta, const float *more, float *credit, int relu);
void ep_layer_norm_back(const ep_pool *p, const float *x, const float *delta, const float *more, float *credit, int relu);
void ep_gate(uint32_t size, const float *x, const float *delta, const float *more, float *credit, int relu);

/* A value of the feedback that a key says: uniform, of 24 bits, the sign among them. */
float ep_feedback(uint32_t key, uint32_t index, float bound);

/* A hash of (key, index), as edgepep's own random numbers. */
uint32_t ep_mix(uint32_t h);
uint32_t ep_bits(uint32_t key, uint32_t index);
uint32_t ep_key(uint32_t key, uint32_t part);

/* Where weights are in RAM and in the image; ep_blob.c copies between them. */
typedef struct {
    float *ram;      /* 0 if they rest in flash */
    uint32_t offset; /* in the image's values */
    uint32_t size;   /* in values of four bytes */
} ep_part;

extern const union ep_image {
    uint32_t words[EP_IMAGE];
    float values[EP_IMAGE];
} ep_image;
extern const ep_part ep_parts[];
extern uint32_t ep_steps; /* updates made, those before the export among them if weights are codes */
extern uint32_t ep_loaded;

#endif
