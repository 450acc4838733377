/* A bare Cortex-M: start-up, a painted stack, text by semihosting, and a timer that counts instructions under QEMU.
 *
 * With `-icount shift=6` an instruction takes 64 ns of the virtual time, in which the 25 MHz timer of ARM's MPS2 boards
 * (BOARD_TIMER) ticks every 40 ns. QEMU counts instructions, not cycles: no wait states, no caches. */
#include "bench.h"

extern uint32_t data_image, data_start, data_end, bss_start, bss_end, stack_start, stack_end;
int main(void);

#define PAINT 0xA5A5A5A5u

static int semihosting(uint32_t operation, const void *argument)
{
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return (int)r0;
}

void board_text(const char *text)
{
    semihosting(0x04, text); /* SYS_WRITE0 */
}

static void leave(uint32_t code)
{
    const uint32_t why[2] = {0x20026u, code}; /* ADP_Stopped_ApplicationExit */
    semihosting(0x20, why);                   /* SYS_EXIT_EXTENDED */
    for (;;)
        ;
}

uint32_t board_instructions(void)
{
#ifdef BOARD_TIMER
    volatile uint32_t *timer = (volatile uint32_t *)0x40000000u; /* control, value, reload, interrupt status */
    const uint32_t ticks = 0xFFFFFFFFu - timer[1], wrapped = timer[3] & 1u;
    timer[0] = 0;
    timer[2] = 0xFFFFFFFFu;
    timer[1] = 0xFFFFFFFFu;
    timer[3] = 1;
    timer[0] = 9; /* count, and note in the status when it has come to 0 */
    return wrapped ? 0 : (uint32_t)((uint64_t)ticks * 5u / 8u);
#else
    return 0;
#endif
}

uint32_t board_stack(void)
{
    const uint32_t *at = &stack_start;
    while (at < &stack_end && *at == PAINT)
        at++;
    return (uint32_t)((const char *)&stack_end - (const char *)at);
}

__attribute__((naked, noreturn)) void reset(void)
{
    __asm__ volatile("ldr r0, =stack_start\n"
                     "ldr r1, =stack_end\n"
                     "ldr r2, =0xA5A5A5A5\n"
                     "1: str r2, [r0], #4\n"
                     "cmp r0, r1\n"
                     "bne 1b\n"
                     "b begin\n");
}

__attribute__((noreturn, used)) void begin(void)
{
    const uint32_t *from = &data_image;
    for (uint32_t *to = &data_start; to < &data_end;)
        *to++ = *from++;
    for (uint32_t *to = &bss_start; to < &bss_end;)
        *to++ = 0;
#if defined(__ARM_FP)
    *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20; /* the FPU on */
    __asm__ volatile("dsb\nisb");
#endif
    leave((uint32_t)main());
    for (;;)
        ;
}

static void fault(void)
{
    board_text("fault\n");
    leave(99);
}

typedef void (*handler)(void);
__attribute__((section(".vectors"), used)) static const struct {
    const uint32_t *stack;
    handler handlers[6];
} vectors = {&stack_end, {reset, fault, fault, fault, fault, fault}};
