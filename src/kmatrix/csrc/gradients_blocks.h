// Gradients of a pass that is one factor of any shape: products of gradients and inputs, summed over the rows of the
// tile, and the product with the conjugate transpose.
#ifndef KMATRIX_GRADIENTS_BLOCKS_H
#define KMATRIX_GRADIENTS_BLOCKS_H

#include "lane_sums.h"
#include "passes.h"

// Weights whose gradients stay in registers together.
constexpr int square_rows = 4;
constexpr int square_numbers = KM_VECTOR_BYTES == 64 ? 16 : 8;
template <int C> KM_INLINE constexpr int square_columns() { return square_numbers / square_rows / C; }

template <int C> static int64_t squares_of(const packed_pass *pass) {
    return ((pass->b + square_rows - 1) / square_rows) * ((pass->c + square_columns<C>() - 1) / square_columns<C>());
}

template <class T, int C> static int64_t sums_of_block(const packed_pass *pass) {
    return squares_of<C>(pass) * square_numbers;
}

// Adds sum over rows of g[i] conj(x[j]) for the square of weights from (i, j) on; past the edge the last line repeats.
template <class T, int C>
KM_INLINE void square_sums(const T *g, const T *x, int64_t stride, int64_t rows, int64_t columns, T *sums,
                           int64_t width) {
    constexpr int n = square_columns<C>();
    vec<T> sum[square_numbers] = {};
    const T *g_line[square_rows], *x_line[n];
    for (int i = 0; i < square_rows; i++) g_line[i] = g + (i < rows ? i : rows - 1) * stride;
    for (int j = 0; j < n; j++) x_line[j] = x + (j < columns ? j : columns - 1) * stride;
    for (int64_t r = 0; r < width; r += simd<T>::lanes) {
        vec<T> in[n * C];
#pragma GCC unroll 4
        for (int j = 0; j < n; j++)
            for (int p = 0; p < C; p++) in[j * C + p] = load(x_line[j] + p * width + r);
#pragma GCC unroll 4
        for (int i = 0; i < square_rows; i++) {
            vec<T> above[C];
            for (int p = 0; p < C; p++) above[p] = load(g_line[i] + p * width + r);
#pragma GCC unroll 4
            for (int j = 0; j < n; j++) {
                vec<T> *at = sum + (i * n + j) * C;
                at[0] += above[0] * in[j * C];
                if constexpr (C == 2) {
                    at[1] += above[1] * in[j * C];
                    at[0] += above[1] * in[j * C + 1];
                    at[1] -= above[0] * in[j * C + 1];
                }
            }
        }
    }
    add_lane_sums<T, square_numbers>(sum, sums);
}

// Lines first .. first + COLUMNS - 1 of the product of the conjugate transpose with g, VECTORS vectors of each.
template <class T, int C, int COLUMNS, int VECTORS>
KM_INLINE void columns_back(const packed_pass *pass, const T *w, int64_t first, const T *g, T *out, int64_t stride,
                            int64_t width) {
    constexpr int lanes = simd<T>::lanes, step = rows_of_block<T, C>();
    vec<T> sum[COLUMNS * VECTORS * C] = {};
    for (int64_t i = 0; i < pass->b; i += step) {
        const int64_t together = pass->b - i < step ? pass->b - i : step;
        const T *at = w + (i * pass->c + first * together) * C;
        for (int64_t k = 0; k < together; k++, at += C, g += stride) {
            vec<T> x[VECTORS * C];
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; v++)
                for (int p = 0; p < C; p++) x[v * C + p] = load(g + p * width + v * lanes);
#pragma GCC unroll 8
            for (int j = 0; j < COLUMNS; j++)
#pragma GCC unroll 2
                for (int v = 0; v < VECTORS; v++) {
                    const T *number = at + j * together * C;
                    vec<T> *to = sum + (j * VECTORS + v) * C;
                    to[0] += number[0] * x[v * C];
                    if constexpr (C == 2) {
                        to[1] += number[0] * x[v * C + 1];
                        to[0] += number[1] * x[v * C + 1];
                        to[1] -= number[1] * x[v * C];
                    }
                }
        }
    }
#pragma GCC unroll 8
    for (int j = 0; j < COLUMNS; j++)
        for (int v = 0; v < VECTORS; v++)
            for (int p = 0; p < C; p++)
                store(out + (first + j) * stride + p * width + v * lanes, sum[(j * VECTORS + v) * C + p]);
}

template <class T, int C, int COLUMNS>
KM_INLINE void columns_back_width(const packed_pass *pass, const T *w, int64_t first, const T *g, T *out,
                                  int64_t stride, int64_t width) {
    constexpr int lanes = simd<T>::lanes;
    int64_t r = 0;
    if constexpr (C == 1)
        for (; r + 2 * lanes <= width; r += 2 * lanes)
            columns_back<T, C, COLUMNS, 2>(pass, w, first, g + r, out + r, stride, width);
    for (; r < width; r += lanes) columns_back<T, C, COLUMNS, 1>(pass, w, first, g + r, out + r, stride, width);
}

// `in` is what entered the factor and becomes the gradient of it, `grad` the gradient of what left.
template <class T, int C>
static void gradients_of_block(const packed_pass *pass, const T *weights, T *in, const T *grad, T *sums, int64_t width,
                               bool need_below) {
    constexpr int most = rows_of_block<T, C>(), columns = square_columns<C>();
    const int64_t line = C * width, stride = pass->d * line;
    for (int64_t g = 0; g < pass->a; g++)
        for (int64_t k = 0; k < pass->d; k++) {
            const int64_t copy = (pass->copies_a > 1 ? g : 0) * pass->copies_d + (pass->copies_d > 1 ? k : 0);
            const T *w = weights + copy * pass->group * C;
            T *x = in + (g * pass->c * pass->d + k) * line;
            const T *above = grad + (g * pass->b * pass->d + k) * line;
            T *to = sums + copy * sums_of_block<T, C>(pass);
            for (int64_t i = 0; i < pass->b; i += square_rows)
                for (int64_t j = 0; j < pass->c; j += columns, to += square_numbers)
                    square_sums<T, C>(above + i * stride, x + j * stride, stride, pass->b - i, pass->c - j, to, width);
            if (!need_below) continue;
            int64_t j = 0;
            for (; j + most <= pass->c; j += most) columns_back_width<T, C, most>(pass, w, j, above, x, stride, width);
            for (; j + 2 <= pass->c; j += 2) columns_back_width<T, C, 2>(pass, w, j, above, x, stride, width);
            if (j < pass->c) columns_back_width<T, C, 1>(pass, w, j, above, x, stride, width);
        }
}

template <class T, int C>
static void unpack_block(const km_factor *f, const packed_pass *pass, const T *sums, T *to) {
    constexpr int most = square_columns<C>();
    const int64_t next = pass->copies_d * C;
    for (int64_t g = 0; g < pass->copies_a; g++, to += f->b * f->c * next)
        for (int64_t k = 0; k < pass->copies_d; k++)
            for (int64_t i = 0; i < f->b; i += square_rows)
                for (int64_t j = 0; j < f->c; j += most, sums += square_numbers) {
                    const int64_t rows = f->b - i < square_rows ? f->b - i : square_rows;
                    const int64_t columns = f->c - j < most ? f->c - j : most;
                    for (int64_t r = 0; r < rows; r++) {
                        T *at = to + ((i + r) * f->c + j) * next + k * C;
                        for (int64_t q = 0; q < columns; q++, at += next)
                            for (int p = 0; p < C; p++) at[p] = sums[(r * most + q) * C + p];
                    }
                }
}

#endif
