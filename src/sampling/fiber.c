/* Fibers over ucontext. Its switch saves the signal mask with a system call, some 0.3 us: nothing
 * beside a network call, so there is no assembly to maintain for each architecture. */
#include "sampling/fiber.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define KS_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define KS_ADDRESS_SANITIZER 1
#endif
#endif
#ifdef KS_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__has_include)
#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#endif
#endif
#ifndef VALGRIND_STACK_REGISTER
#define VALGRIND_STACK_REGISTER(start, end) 0u
#define VALGRIND_STACK_DEREGISTER(id) ((void)(id))
#endif

#ifdef KS_ADDRESS_SANITIZER
enum { STACK_BYTES = 256 << 10 }; /* its red zones make frames several times as large */
#else
enum { STACK_BYTES = 64 << 10 };
#endif

struct ks_fiber {
    ucontext_t here, caller;
    void (*entry)(void *arg);
    void *arg;
    bool ended;
    char *map, *stack; /* the mapping begins with the guard page */
    size_t map_bytes;
    unsigned valgrind_id;
#ifdef KS_ADDRESS_SANITIZER
    const void *caller_stack;
    size_t caller_bytes;
    void *fake_stack;
#endif
};

/* --- what AddressSanitizer must be told around every switch --- */

#ifdef KS_ADDRESS_SANITIZER
static void leaving_caller(ks_fiber *f, void **fake)
{
    __sanitizer_start_switch_fiber(fake, f->stack, STACK_BYTES);
}
static void back_in_caller(void *fake)
{
    __sanitizer_finish_switch_fiber(fake, NULL, NULL);
}
static void leaving_fiber(ks_fiber *f, bool for_good)
{
    __sanitizer_start_switch_fiber(for_good ? NULL : &f->fake_stack, f->caller_stack,
                                   f->caller_bytes);
}
static void back_in_fiber(ks_fiber *f)
{
    __sanitizer_finish_switch_fiber(f->fake_stack, &f->caller_stack, &f->caller_bytes);
}
static void forget_stack(ks_fiber *f)
{
    ASAN_UNPOISON_MEMORY_REGION(f->stack, STACK_BYTES);
    f->fake_stack = NULL;
}
#else
static void leaving_caller(ks_fiber *f, void **fake)
{
    (void)f, (void)fake;
}
static void back_in_caller(void *fake)
{
    (void)fake;
}
static void leaving_fiber(ks_fiber *f, bool for_good)
{
    (void)f, (void)for_good;
}
static void back_in_fiber(ks_fiber *f)
{
    (void)f;
}
static void forget_stack(ks_fiber *f)
{
    (void)f;
}
#endif

ks_fiber *ks_fiber_new(ks_error *err)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    ks_fiber *f = calloc(1, sizeof *f);
    if (!f) {
        ks_error_set(err, "no memory for a fiber");
        return NULL;
    }
    f->map_bytes = page + STACK_BYTES;
    f->map = mmap(NULL, f->map_bytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (f->map == MAP_FAILED || mprotect(f->map, page, PROT_NONE) != 0) {
        ks_error_set(err, "no memory for a fiber's stack of %d bytes", (int)STACK_BYTES);
        if (f->map != MAP_FAILED)
            munmap(f->map, f->map_bytes);
        free(f);
        return NULL;
    }
    f->stack = f->map + page;
    f->valgrind_id = VALGRIND_STACK_REGISTER(f->stack, f->stack + STACK_BYTES);
    f->ended = true;
    return f;
}

void ks_fiber_free(ks_fiber *f)
{
    if (!f)
        return;
    forget_stack(f);
    VALGRIND_STACK_DEREGISTER(f->valgrind_id);
    munmap(f->map, f->map_bytes);
    free(f);
}

/* The bottom of every fiber. makecontext passes ints: the pointer comes in two halves. */
static void run_entry(unsigned high, unsigned low)
{
    ks_fiber *f = (ks_fiber *)(uintptr_t)((uint64_t)high << 32 | low);
    back_in_fiber(f);
    f->entry(f->arg);
    f->ended = true;
    leaving_fiber(f, true);
    setcontext(&f->caller);
}

void ks_fiber_start(ks_fiber *f, void (*entry)(void *arg), void *arg)
{
    forget_stack(f);
    f->entry = entry;
    f->arg = arg;
    f->ended = false;
    getcontext(&f->here);
    f->here.uc_stack.ss_sp = f->stack;
    f->here.uc_stack.ss_size = STACK_BYTES;
    f->here.uc_link = NULL;
    uint64_t self = (uint64_t)(uintptr_t)f;
    makecontext(&f->here, (void (*)(void))run_entry, 2, (unsigned)(self >> 32), (unsigned)self);
}

bool ks_fiber_resume(ks_fiber *f)
{
    void *fake = NULL;
    leaving_caller(f, &fake);
    swapcontext(&f->caller, &f->here);
    back_in_caller(fake);
    return !f->ended;
}

void ks_fiber_suspend(ks_fiber *f)
{
    leaving_fiber(f, false);
    swapcontext(&f->here, &f->caller);
    back_in_fiber(f);
}
