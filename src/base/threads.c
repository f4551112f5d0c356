#include "base/threads.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

typedef struct loop {
    void (*task)(void *arg, int index, int worker);
    void *arg;
    int n;
} loop;

typedef struct helper {
    ks_threads *pool;
    pthread_t thread;
    int worker; /* 1 .. count - 1; the caller is 0 */
} helper;

/* One loop at a time. A helper joins it while it is open; the caller closes it when every index has
 * been taken, and then waits only for the helpers that joined: one that wakes late costs nothing.
 */
struct ks_threads {
    int count;
    helper *helpers; /* count - 1 of them */
    pthread_mutex_t lock;
    pthread_cond_t opened, finished;
    loop current;       /* under lock */
    unsigned long turn; /* under lock: counts the loops */
    bool open, stop;    /* under lock */
    int joined;         /* under lock: helpers at work on the current loop */
    atomic_long next;   /* the next index to take */
};

static void take_indices(ks_threads *pool, const loop *l, int worker)
{
    for (long i; (i = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed)) < l->n;)
        l->task(l->arg, (int)i, worker);
}

static void *help(void *self)
{
    helper *h = self;
    ks_threads *pool = h->pool;
    unsigned long seen = 0;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (!pool->stop && (!pool->open || pool->turn == seen))
            pthread_cond_wait(&pool->opened, &pool->lock);
        if (pool->stop)
            break;
        seen = pool->turn;
        loop l = pool->current;
        pool->joined++;
        pthread_mutex_unlock(&pool->lock);
        take_indices(pool, &l, h->worker);
        pthread_mutex_lock(&pool->lock);
        if (--pool->joined == 0)
            pthread_cond_signal(&pool->finished);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/* Starts the helpers with every signal blocked, so that signals reach the program's own threads.
 * Returns how many run. */
static int start_helpers(ks_threads *pool)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int started = 0;
    for (; started < pool->count - 1; started++) {
        helper *h = &pool->helpers[started];
        *h = (helper){.pool = pool, .worker = started + 1};
        if (pthread_create(&h->thread, NULL, help, h) != 0)
            break;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return started;
}

ks_threads *ks_threads_new(int count, ks_error *err)
{
    if (count < 0 || count > 4096) {
        ks_error_set(err, "%d threads: 0 (all CPUs) to 4096 are possible", count);
        return NULL;
    }
    ks_threads *pool = ks_calloc(1, sizeof *pool);
    pool->count = count ? count : ks_threads_available();
    pool->helpers = ks_calloc((size_t)pool->count, sizeof *pool->helpers);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->opened, NULL);
    pthread_cond_init(&pool->finished, NULL);
    int wanted = pool->count, started = start_helpers(pool);
    if (started < wanted - 1) {
        pool->count = started + 1;
        ks_threads_free(pool);
        ks_error_set(err, "cannot start %d threads: the system gave %d", wanted, started + 1);
        return NULL;
    }
    return pool;
}

void ks_threads_free(ks_threads *pool)
{
    if (!pool)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->stop = true;
    pthread_cond_broadcast(&pool->opened);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < pool->count - 1; i++)
        pthread_join(pool->helpers[i].thread, NULL);
    pthread_cond_destroy(&pool->finished);
    pthread_cond_destroy(&pool->opened);
    pthread_mutex_destroy(&pool->lock);
    free(pool->helpers);
    free(pool);
}

int ks_threads_count(const ks_threads *pool)
{
    return pool->count;
}

/* This process' affinity mask, for *cpus CPUs: it grows until the kernel's mask fits, as machines may have more CPUs than a
 * cpu_set_t. CPU_FREE it; NULL when there is none to be had. */
static cpu_set_t *own_cpus(int *cpus)
{
    for (*cpus = CPU_SETSIZE; *cpus <= 1 << 16; *cpus *= 2) {
        cpu_set_t *set = CPU_ALLOC((size_t)*cpus);
        if (!set || sched_getaffinity(0, CPU_ALLOC_SIZE((size_t)*cpus), set) == 0)
            return set;
        CPU_FREE(set);
    }
    return NULL;
}

int ks_threads_available(void)
{
    int cpus;
    cpu_set_t *set = own_cpus(&cpus);
    int count = set ? CPU_COUNT_S(CPU_ALLOC_SIZE((size_t)cpus), set) : 0;
    CPU_FREE(set);
    return count > 0 ? count : 1;
}

void ks_threads_cpus(unsigned char *bits, int cpus)
{
    int known = 0;
    cpu_set_t *set = own_cpus(&known);
    memset(bits, 0, (size_t)(cpus + 7) / 8);
    for (int i = 0; set && i < cpus && i < known; i++) {
        if (CPU_ISSET_S((size_t)i, CPU_ALLOC_SIZE((size_t)known), set))
            bits[i / 8] |= (unsigned char)(1 << (i % 8));
    }
    CPU_FREE(set);
}

void ks_threads_run(ks_threads *pool, int n, void (*task)(void *arg, int index, int worker),
                    void *arg)
{
    if (pool->count == 1 || n == 1) {
        for (int i = 0; i < n; i++)
            task(arg, i, 0);
        return;
    }
    if (n <= 0)
        return;
    loop l = {task, arg, n};
    pthread_mutex_lock(&pool->lock);
    pool->current = l;
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    pool->turn++;
    pool->open = true;
    pthread_cond_broadcast(&pool->opened);
    pthread_mutex_unlock(&pool->lock);
    take_indices(pool, &l, 0);
    pthread_mutex_lock(&pool->lock);
    pool->open = false;
    while (pool->joined > 0)
        pthread_cond_wait(&pool->finished, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}
