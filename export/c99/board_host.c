/* The machine that compiled it. */
#include <stdio.h>

#include "bench.h"

void board_text(const char *text)
{
    fputs(text, stdout);
}

uint32_t board_instructions(void)
{
    return 0;
}

uint32_t board_stack(void)
{
    return 0;
}
