/* What bench.c asks of the samples and of the board it runs on. */
#ifndef BENCH_H
#define BENCH_H

#include "edgepep.h"

extern const uint32_t bench_samples;
void bench_load(uint32_t sample, float *x);
uint32_t bench_label(uint32_t sample);

void board_text(const char *text);
uint32_t board_instructions(void); /* made since the last call; 0 where they cannot be counted, or are more than 2.6e9 */
uint32_t board_stack(void);        /* most bytes of the stack in use so far; 0 where that is not known */

#endif
