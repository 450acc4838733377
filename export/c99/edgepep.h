/* A network that edgepep exported: infers, and learns if it was exported with a rule. C99, static memory only.
 *
 *     ep_start();                                    the weights of the export
 *     int said = ep_infer(x, EP_INPUTS);             a class, or a negative status
 *     int said = ep_learn(x, EP_INPUTS, label, rate) one step of training on one sample; the class said before it
 *
 * A call that returns a negative status has changed nothing; but under DRTP and local heads hidden layers learn before
 * the answer is known, and may have when that is not finite. */
#ifndef EDGEPEP_H
#define EDGEPEP_H

#include <stdint.h>

#include "config.h" /* generated: EP_INPUTS, EP_CLASSES, EP_BLOB and what the kernels have to know */

enum ep_status {
    EP_OK = 0,
    EP_NOT_LOADED = -1,    /* ep_start or ep_load comes first */
    EP_WRONG_SIZE = -2,    /* an input, or a buffer for weights, of another size */
    EP_WRONG_TARGET = -3,  /* no such class */
    EP_NOT_WEIGHTS = -4,   /* the bytes are not weights of edgepep */
    EP_NEWER = -5,         /* written by a newer version */
    EP_CORRUPT = -6,       /* the checksum, or the length, is wrong */
    EP_OTHER_NETWORK = -7, /* sound weights, of another network */
    EP_NO_RULE = -8,       /* this export only infers */
    EP_WRONG_RATE = -9,    /* a rate that is negative or not finite */
    EP_NOT_FINITE = -10    /* answers that are no finite numbers: of such an input, or training that has diverged */
};
const char *ep_message(int status);

int ep_start(void);
int ep_infer(const float *x, uint32_t size);
int ep_learn(const float *x, uint32_t size, uint32_t target, float rate);

float *ep_input(void);        /* room for x, if there is none: fill it, then give it to ep_infer or ep_learn */
const float *ep_logits(void); /* EP_CLASSES of them, from ep_infer until the next call */

/* Weights as EP_BLOB bytes, which edgepep.c99.read takes back into PyTorch. */
int ep_load(const void *blob, uint32_t size);
int ep_save(void *blob, uint32_t size);
uint32_t ep_weights_checksum(void); /* CRC-32 of the values, without making a blob of them */

void *ep_arena(void); /* EP_ARENA bytes: all that a step writes but the weights; for whoever wants to watch */

#endif
