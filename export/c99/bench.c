/* Tries an export: answers, training steps on the samples, what they cost, and a checksum of the weights they leave.
 *
 * STEPS training steps in all, after one whose arena, stack and instructions are watched. */
#include <string.h>

#include "bench.h"

#ifndef STEPS
#define STEPS 100
#endif
#ifndef RATE
#define RATE 0.01f
#endif

static void say(const char *what, uint32_t value)
{
    char digits[11], *at = digits + 10;
    *at = 0;
    do
        *--at = (char)('0' + value % 10u);
    while (value /= 10u);
    board_text(what);
    board_text(" ");
    board_text(at);
    board_text("\n");
}

static void paint(void)
{
    memset(ep_arena(), 0x5A, EP_ARENA);
}

static uint32_t touched(void)
{
    const unsigned char *arena = ep_arena();
    uint32_t count = 0;
    for (uint32_t i = 0; i < EP_ARENA; i += 4)
        if (arena[i] != 0x5A || arena[i + 1] != 0x5A || arena[i + 2] != 0x5A || arena[i + 3] != 0x5A)
            count += 4;
    return count;
}

static int learn(uint32_t sample)
{
    bench_load(sample, ep_input());
    return ep_learn(ep_input(), EP_INPUTS, bench_label(sample), RATE);
}

int main(void)
{
    uint32_t right = 0, refused = 0;
    int status = ep_start();
    if (status < 0) {
        board_text(ep_message(status));
        board_text("\n");
        return 1;
    }
    say("arena", EP_ARENA);
    paint();
    bench_load(0, ep_input());
    board_instructions();
    status = ep_infer(ep_input(), EP_INPUTS);
    say("infer_instructions", board_instructions());
    say("infer_touched", touched());
    say("class", (uint32_t)status);
    paint();
    bench_load(0, ep_input());
    board_instructions();
    status = ep_learn(ep_input(), EP_INPUTS, bench_label(0), RATE);
    say("learn_instructions", board_instructions());
    if (status != EP_NO_RULE) {
        say("learn_touched", touched());
        say("weights_after_1", ep_weights_checksum());
        for (uint32_t i = 1; i < STEPS; i++)
            refused += learn(i % bench_samples) < 0;
        say("steps", STEPS);
        say("refused", refused);
    }
    say("weights", ep_weights_checksum());
    for (uint32_t i = 0; i < bench_samples; i++) {
        bench_load(i, ep_input());
        right += ep_infer(ep_input(), EP_INPUTS) == (int)bench_label(i);
    }
    say("right", right);
    say("samples", bench_samples);
    say("stack", board_stack());
    return 0;
}
