// The C interface of the chain kernels: plain structs and function pointers, no C++, no Python, no torch.
//
// A chain is a list of Kronecker-sparse factors in order of application. It runs as passes: a pass is one factor of
// any shape, or several factors of 2x2 blocks that stay in registers. Each instruction set compiles the same kernels
// in its own namespace and hands out one table of functions; `km_kernels_for` picks a table at run time.
#ifndef KMATRIX_H
#define KMATRIX_H
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum km_dtype { KM_F32, KM_F64, KM_C64, KM_C128, KM_BF16, KM_F16 };  // the last two compute in float

// w[g, i, j, k] lies at w + g*sa + i*sb + j*sc + k*sd (in numbers of the dtype); a stride is 0 where weights are tied.
typedef struct {
    int64_t a, b, c, d;
    const void *w;
    int64_t sa, sb, sc, sd;
} km_factor;

typedef struct {
    int32_t dtype;
    int32_t n_factors;
    const km_factor *factors;
    int32_t n_passes;
    const int32_t *pass_factors;  // how many consecutive factors each pass takes; they add up to n_factors
    int32_t tile_vectors;         // a tile holds this many vectors of rows
    int64_t n_in, n_out;          // columns of x and of y
    const int64_t *gather;        // NULL, or the column of x for each column of the first factor; -1 is zero
    const int64_t *take;          // NULL, or the row of the last factor for each column of y
    const void *bias;             // NULL, or n_out numbers of the dtype, added to y
    const void *ordered;          // NULL, or what `rows_order` made of the weights
} km_chain;

// Rows of vectors in memory: element (row, column) at data + row*row_stride + column*column_stride, in numbers of the
// dtype. One of the strides is 1.
typedef struct {
    void *data;
    int64_t row_stride, column_stride;
} km_matrix;

// A sum of rank-one boxes: box k is left_k right_k^T on a cyclic segment of the rows and one of the columns. Real types.
typedef struct {
    int32_t dtype;
    int64_t n_in, n_out, n_boxes;
    const int64_t *places;        // four rows of n_boxes: row_start, row_width, col_start, col_width
    const void *left, *right;     // the numbers on the segments, box after box
    int64_t n_left, n_right;      // how many: the sums of the widths
} km_boxes;

// Rows under masks: number j of row k is multiplied by stairs[first[k] + j] - stairs[last[k] + j]. Real types.
typedef struct {
    int32_t dtype;
    int64_t rows, size;           // and the numbers of each
    const void *content;          // the rows, without gaps
    const int64_t *first, *last;
    const void *stairs, *slopes;  // a function of steps, and its derivative: `length` numbers each
    int64_t length;
} km_windows;

typedef struct {
    const char *isa;
    int32_t vector_bytes;
    // The widest pass of 2x2 factors that stays in registers: features 2^k, for real and complex numbers.
    int32_t max_log_radix, max_log_radix_complex;

    // Whether the factors first .. first + count - 1 may form one pass.
    int (*can_fuse)(const km_chain *, int32_t first, int32_t count);

    // Forward for any batch: tiles of rows, transposed once, weights packed beforehand in order of use.
    int64_t (*packed_bytes)(const km_chain *);
    void (*pack)(const km_chain *, void *packed);
    int64_t (*scratch_bytes)(const km_chain *);  // for one thread
    void (*forward)(const km_chain *, const void *packed, km_matrix x, km_matrix y, int64_t batch, void *scratch,
                    int32_t threads);

    // Forward for a few rows: weights read where they are, nothing packed.
    int64_t (*rows_scratch_bytes)(const km_chain *);
    void (*rows_forward)(const km_chain *, km_matrix x, km_matrix y, int64_t batch, void *scratch, int32_t threads);

    // For one row alone weights may be copied once into the order of use, which far memory gives faster. No bytes: there
    // is nothing to gain.
    int64_t (*rows_ordered_bytes)(const km_chain *);
    void (*rows_order)(const km_chain *, void *ordered);

    // Gradients: of x (grad_x.data NULL where it is not wanted), and of the weights of each factor, summed over the
    // batch and over tied axes, as contiguous (a or 1, b, c, d or 1) numbers of the type of the arithmetic.
    int64_t (*backward_scratch_bytes)(const km_chain *);  // for one thread
    void (*backward)(const km_chain *, const void *packed, km_matrix grad, km_matrix x, km_matrix grad_x,
                     void *const *grad_weights, int64_t batch, void *scratch, int32_t threads);

    // Sums of boxes, forward for any batch: tiles of rows, weights packed beforehand in order of use.
    int64_t (*boxes_packed_bytes)(const km_boxes *);
    int64_t (*boxes_pack_scratch_bytes)(const km_boxes *);
    void (*boxes_pack)(const km_boxes *, void *packed, void *scratch);
    int64_t (*boxes_scratch_bytes)(const km_boxes *);  // for one thread
    // `bias` NULL, or n_out numbers of the dtype, added to y.
    void (*boxes_forward)(int32_t dtype, const void *packed, km_matrix x, km_matrix y, const void *bias, int64_t batch,
                          void *scratch, int64_t scratch_bytes, int32_t threads);

    // The same for a few rows: weights read where they are, nothing packed.
    int64_t (*boxes_rows_scratch_bytes)(const km_boxes *, int32_t threads);
    void (*boxes_rows)(const km_boxes *, km_matrix x, km_matrix y, const void *bias, int64_t batch, void *scratch,
                       int32_t threads);

    // Rows under masks, float and double. Of gradients: those of the content, and for each row the sum of gradient times
    // content times slope at the last window, and how much that is more than at the first.
    void (*masked)(const km_windows *, void *out, int32_t threads);
    void (*masked_gradients)(const km_windows *, const void *grad, void *to_content, void *to_width, void *to_start,
                             int32_t threads);
} km_kernels;

// The tables this library was compiled with, best first, and the first that this processor runs.
// `name` NULL picks; otherwise the table of that name, or NULL if it is absent or cannot run here.
const km_kernels *km_kernels_for(const char *name);
int32_t km_compiled(const char **names, int32_t capacity);

// A number that changes, but for a chance of about 2^-64, when any of these bytes does.
uint64_t km_fingerprint(const void *const *parts, const int64_t *bytes, int32_t n_parts);

#ifdef __cplusplus
}
#endif
#endif
