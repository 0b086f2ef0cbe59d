/* Dynamic convolution on the CPU: mix a block of the sample's kernel in the cache, use it there, forget it.
 *
 * Everything is written once, in kernels.inc, for a type REAL, and compiled for float and for double. Tensors are
 * channels last: x is (B, D, H, W, C), y is (B, rows, O). Cells are (o, n, l) in memory: cell output, cell, then the
 * positions and input channels of a cell. No function allocates but scratch a thread, and none knows of Python.
 */

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num(void) { return 0; }
#endif

#if defined(__AVX512F__)
#define BYTES 64
#define ROWS 14 /* 14 x 2 sums, 2 operands: 30 of 32 registers */
#elif defined(__AVX__)
#define BYTES 32
#define ROWS 6 /* 6 x 2 sums, 2 operands: 14 of 16 registers */
#else
#define BYTES 16
#define ROWS 6
#endif

#define CACHE (1024 * 1024)         /* bytes of kernels' blocks that a core can keep to itself */
#define CHUNKS_PAY 150     /* measured: cells times this against sums a cell */
#define KERNELS (10 * 1024 * 1024) /* bytes of kernels' gradients that a thread keeps */
#define STRETCH 8                  /* tiles of rows whose input stays in the first level of the cache for all taps */
#define HUGE (2 * 1024 * 1024)
#define NEAR 9                     /* taps of a depth-wise kernel that stay in registers */
#define DEEP 128                   /* terms of a sum that is added to what is there, at a time */
#define PAD 16             /* numbers between rows, whose sizes are often powers of two and would share few cache sets */

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* Sizes of a layer, in the order in which Python writes them. */
typedef struct {
    long batch, in[3], in_channels, out[3], out_channels;
    long kernel[3], stride[3], padding[3], dilation[3], groups;
    long spatial, out_blocks, in_blocks; /* blocks of the kernel: the attention is (B, spatial, out, in, n) */
    long cells;                          /* n */
    long whole;                          /* cells are as large as the kernel, not as one block of it */
} Layer;

/* What a branch gives: see branch.inc. */
enum { LOGITS, CONTRASTING, NONNEGATIVE, HIDDEN };

/* Scratch of a thread, kept until the thread ends: large blocks that come and go cost page faults at every call. */
static __thread void *kept;
static __thread size_t kept_size;
static pthread_key_t end_of_thread; /* whose value is freed there */
static pthread_once_t before_all = PTHREAD_ONCE_INIT;
static int has_end;

static void watch_ends(void) { has_end = !pthread_key_create(&end_of_thread, free); }

static void *scratch(size_t size) {
    size = (size + HUGE - 1) / HUGE * HUGE;
    if (kept_size < size) {
        pthread_once(&before_all, watch_ends);
        free(kept);
        kept = aligned_alloc(HUGE, size);
#ifdef MADV_HUGEPAGE
        if (kept) madvise(kept, size, MADV_HUGEPAGE); /* rows are often a page apart */
#endif
        kept_size = kept ? size : 0;
        if (has_end) pthread_setspecific(end_of_thread, kept);
    }
    return kept;
}

static long product(const long *v) { return v[0] * v[1] * v[2]; }

/* A table says for every tile of ROWS rows of a result, tap by tap, in which pixel each row finds its operand: -1 is
 * padding. Its size: (rows rounded up to tiles) * taps. */
long table_size(long rows, long taps) { return (rows + ROWS - 1) / ROWS * ROWS * taps; }

static void enter(long *table, long taps, long row, long tap, long pixel) {
    table[(row / ROWS * taps + tap) * ROWS + row % ROWS] = pixel;
}

/* For the convolution itself: rows are output positions, pixels input positions. */
void forward_table(const Layer *l, long *table) {
    long taps = product(l->kernel), row = 0;
    memset(table, -1, sizeof(long) * table_size(product(l->out), taps));
    for (long d = 0; d < l->out[0]; d++)
        for (long h = 0; h < l->out[1]; h++)
            for (long w = 0; w < l->out[2]; w++, row++)
                for (long tap = 0; tap < taps; tap++) {
                    long z = d * l->stride[0] - l->padding[0] + tap / (l->kernel[1] * l->kernel[2]) * l->dilation[0];
                    long y = h * l->stride[1] - l->padding[1] + tap / l->kernel[2] % l->kernel[1] * l->dilation[1];
                    long x = w * l->stride[2] - l->padding[2] + tap % l->kernel[2] * l->dilation[2];
                    if (z >= 0 && z < l->in[0] && y >= 0 && y < l->in[1] && x >= 0 && x < l->in[2])
                        enter(table, taps, row, tap, (z * l->in[1] + y) * l->in[2] + x);
                }
}

/* For the gradient of the input: rows are input positions, pixels output positions. With a stride, an input position
 * meets only some taps; `order` lists input positions so that neighbours meet the same. */
void backward_table(const Layer *l, long *table, long *order) {
    long taps = product(l->kernel), row = 0;
    memset(table, -1, sizeof(long) * table_size(product(l->in), taps));
    for (long phase = 0; phase < product(l->stride); phase++)
        for (long d = phase / (l->stride[1] * l->stride[2]); d < l->in[0]; d += l->stride[0])
            for (long h = phase / l->stride[2] % l->stride[1]; h < l->in[1]; h += l->stride[1])
                for (long w = phase % l->stride[2]; w < l->in[2]; w += l->stride[2], row++) {
                    order[row] = (d * l->in[1] + h) * l->in[2] + w;
                    for (long tap = 0; tap < taps; tap++) {
                        long z = d + l->padding[0] - tap / (l->kernel[1] * l->kernel[2]) * l->dilation[0];
                        long y = h + l->padding[1] - tap / l->kernel[2] % l->kernel[1] * l->dilation[1];
                        long x = w + l->padding[2] - tap % l->kernel[2] * l->dilation[2];
                        if (z < 0 || z % l->stride[0] || y < 0 || y % l->stride[1] || x < 0 || x % l->stride[2]) continue;
                        z /= l->stride[0], y /= l->stride[1], x /= l->stride[2];
                        if (z < l->out[0] && y < l->out[1] && x < l->out[2])
                            enter(table, taps, row, tap, (z * l->out[1] + y) * l->out[2] + x);
                    }
                }
}

#define REAL float
#define NAME(name) name##_f32
#include "kernels.inc"
#include "branch.inc"
#undef REAL
#undef NAME
#define REAL double
#define NAME(name) name##_f64
#include "kernels.inc"
#include "branch.inc"
