/* Matrix products by CBLAS, each on the thread that asks for it. */
#include <cblas.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "backend/cpu/cpu.h"

/* How the BLAS libraries are told to use one thread. Weak: NULL in a library that is not linked. */
#define WEAK __attribute__((weak))
extern WEAK void openblas_set_num_threads(int threads);
extern WEAK void flexiblas_set_num_threads(int threads);
extern WEAK void nvpl_blas_set_num_threads(int threads);
extern WEAK void MKL_Set_Num_Threads(int threads);
extern WEAK int MKL_CBWR_Set(int branch);
extern WEAK void bli_thread_set_num_threads(int64_t threads);
/* OpenBLAS' buffers: one for each thread inside a product. */
extern WEAK void *blas_memory_alloc(int place);
extern WEAK void blas_memory_free(void *buffer);

void ks_cpu_single_blas_thread(void)
{
    void (*const set_threads[])(int) = {openblas_set_num_threads, flexiblas_set_num_threads,
                                        nvpl_blas_set_num_threads, MKL_Set_Num_Threads};
    for (size_t i = 0; i < sizeof set_threads / sizeof *set_threads; i++)
        if (set_threads[i])
            set_threads[i](1);
    if (bli_thread_set_num_threads)
        bli_thread_set_num_threads(1);
    enum { MKL_CBWR_BEST = 2 }; /* MKL_CBWR_AUTO: bits that do not depend on alignment */
    if (MKL_CBWR_Set)
        MKL_CBWR_Set(MKL_CBWR_BEST);
}

enum { BUFFER_MIB = 128, MOST_THREADS = 4096 };

/* Address space that the process has, in MiB; 0 where the system does not tell. */
static long long mapped_mib(void)
{
    long long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f && fscanf(f, "%lld", &pages) != 1)
        pages = 0;
    if (f)
        fclose(f);
    return pages * sysconf(_SC_PAGESIZE) >> 20;
}

/* Whether so many MiB of address space are to be had. */
static bool can_map(size_t mib)
{
    void *p = mmap(NULL, mib << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p != MAP_FAILED && munmap(p, mib << 20) == 0;
}

/* OpenBLAS maps a buffer when a product first needs one more, twice its size the first time, keeps it for ever, and tries for
 * ever where it gets none. So under a limit it is made to take them here, when it is known that they are to be had. */
int ks_cpu_reserve_blas(int threads, ks_error *err)
{
    static int reserved; /* of this process, by whatever backend was opened first */
    struct rlimit limit;
    void *buffer[MOST_THREADS];
    if (!blas_memory_alloc || !blas_memory_free || threads <= reserved || threads > MOST_THREADS ||
        getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
        return 0;
    size_t needed = (size_t)BUFFER_MIB * (size_t)(threads - reserved + !reserved);
    if (!can_map(needed))
        return ks_error_set(err,
                            "the limit of virtual memory (ulimit -v) is %lld MiB, %lld of them are taken, and the BLAS "
                            "needs %zu more for %d thread%s; raise the limit%s",
                            (long long)(limit.rlim_cur >> 20), mapped_mib(), needed, threads, threads > 1 ? "s" : "",
                            threads > 1 ? ", or take fewer threads (--threads)" : "");
    for (int i = 0; i < threads; i++)
        buffer[i] = blas_memory_alloc(0);
    for (int i = 0; i < threads; i++)
        blas_memory_free(buffer[i]);
    reserved = threads;
    return 0;
}

void ks_cpu_gemm(int m, int n, int k, float alpha, const float *a, int64_t lda, const float *b,
                 int64_t ldb, bool b_transposed, float beta, float *c, int64_t ldc)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, b_transposed ? CblasTrans : CblasNoTrans, m, n, k,
                alpha, a, (int)lda, b, (int)ldb, beta, c, (int)ldc);
}

void ks_cpu_accumulate(const ks_cpu *cpu, float *y, int64_t ldy, int pixels, int columns,
                       const float *x, int64_t ldx, const ks_weight *w, int64_t term, int64_t terms,
                       int column)
{
    const float *block = w->data + term * w->ld + column;
    if (pixels == 1)
        cpu->vector->vector_matrix(y, x, block, w->ld, y, terms, columns);
    else
        ks_cpu_gemm(pixels, columns, (int)terms, 1.0f, x, ldx, block, w->ld, false, 1.0f, y, ldy);
}

void ks_cpu_start_sum(const ks_cpu *cpu, float *y, int64_t ldy, int pixels, int columns,
                      const float *bias, const float *residual, int64_t ldr)
{
    size_t bytes = (size_t)columns * sizeof *y;
    for (int p = 0; p < pixels; p++) {
        float *to = y + p * ldy;
        const float *from = residual ? residual + p * ldr : bias;
        if (residual && bias)
            cpu->vector->add(to, bias, from, columns);
        else if (!from)
            memset(to, 0, bytes);
        else if (from != to)
            memcpy(to, from, bytes);
    }
}
