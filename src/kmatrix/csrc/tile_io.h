// Rows of the user's matrix to a tile and back: a tile holds `lanes * tile_vectors` rows, one line of them a feature,
// real and imaginary parts of complex numbers on lines of their own.
#ifndef KMATRIX_TILE_IO_H
#define KMATRIX_TILE_IO_H

#include "packing.h"

// Line of the tile for real column `column` (complex numbers have two), or -1.
template <int C> KM_INLINE int64_t line_of(const int64_t *lines, int64_t column) {
    if (!lines) return column;
    const int64_t line = lines[column / C];
    return line < 0 ? -1 : line * C + column % C;
}

// Rows of the next tile, which the processor does not foresee: it follows columns along a row, not so many rows at once.
KM_INLINE void ask_for(const void *soon) { __builtin_prefetch(soon, 0, 2); }

// `count` rows with numbers side by side; rows that are missing repeat the last one and are never stored.
template <class S, class T, int C>
static void load_rows(const S *x, int64_t row_stride, int64_t columns, const int64_t *lines, T *tile,
                      int64_t width, int64_t count) {
    constexpr int lanes = simd<T>::lanes;
    for (int64_t r = 0; r < width; r += lanes) {
        const S *row[lanes];
        for (int i = 0; i < lanes; i++) row[i] = x + (r + i < count ? r + i : count - 1) * row_stride * C;
        int64_t column = 0;
        for (; column + lanes <= columns; column += lanes) {
            vec<T> block[lanes];
#pragma GCC unroll 16
            for (int i = 0; i < lanes; i++) {
                block[i] = load_wide(row[i] + column);
                ask_for(row[i] + column + width * row_stride * C);
            }
            transpose<T>(block);
            if (!lines) {
#pragma GCC unroll 16
                for (int i = 0; i < lanes; i++) store(tile + (column + i) * width + r, block[i]);
                continue;
            }
#pragma GCC unroll 16
            for (int i = 0; i < lanes; i++) {
                const int64_t line = line_of<C>(lines, column + i);
                if (line >= 0) store(tile + line * width + r, block[i]);
            }
        }
        for (; column < columns; column++) {
            const int64_t line = line_of<C>(lines, column);
            if (line < 0) continue;
            for (int i = 0; i < lanes; i++) tile[line * width + r + i] = T(widen(row[i][column]));
        }
    }
}

template <class S, class T, int C>
static void store_rows(S *y, int64_t row_stride, int64_t columns, const int64_t *sources, const T *bias,
                       const T *tile, int64_t width, int64_t count) {
    constexpr int lanes = simd<T>::lanes;
    for (int64_t r = 0; r < count; r += lanes) {
        const int rows = int(count - r < lanes ? count - r : lanes);
        S *out = y + r * row_stride * C;
        int64_t column = 0;
        for (; column + lanes <= columns; column += lanes) {
            vec<T> block[lanes];
#pragma GCC unroll 16
            for (int i = 0; i < lanes; i++) block[i] = load(tile + line_of<C>(sources, column + i) * width + r);
            transpose<T>(block);
            if (bias) {
                const vec<T> shift = load(bias + column);
#pragma GCC unroll 16
                for (int i = 0; i < lanes; i++) block[i] += shift;
            }
            if (rows == lanes) {
#pragma GCC unroll 16
                for (int i = 0; i < lanes; i++) store_narrow(out + i * row_stride * C + column, block[i]);
            } else {
#pragma GCC unroll 16
                for (int i = 0; i < lanes; i++)
                    if (i < rows) store_narrow(out + i * row_stride * C + column, block[i]);
            }
        }
        for (; column < columns; column++) {
            const T *line = tile + line_of<C>(sources, column) * width + r;
            for (int i = 0; i < rows; i++) narrow(line[i] + (bias ? bias[column] : T(0)), out + i * row_stride * C + column);
        }
    }
}

// The same for matrices whose columns lie side by side: a line is already there.
template <class S, class T, int C>
static void load_columns(const S *x, int64_t column_stride, int64_t columns, const int64_t *lines, T *tile,
                         int64_t width, int64_t count) {
    constexpr int lanes = simd<T>::lanes;
    for (int64_t column = 0; column < columns; column++) {
        const int64_t line = lines ? lines[column] : column;
        if (line < 0) continue;
        const S *from = x + column * column_stride * C;
        for (int p = 0; p < C; p++) {
            T *to = tile + (line * C + p) * width;
            int64_t r = 0;
            if constexpr (C == 1)
                for (; r + lanes <= count; r += lanes) store(to + r, load_wide(from + r));
            for (; r < width; r++) to[r] = T(widen(from[(r < count ? r : count - 1) * C + p]));
        }
    }
}

template <class S, class T, int C>
static void store_columns(S *y, int64_t column_stride, int64_t columns, const int64_t *sources,
                          const T *bias, const T *tile, int64_t width, int64_t count) {
    constexpr int lanes = simd<T>::lanes;
    for (int64_t column = 0; column < columns; column++) {
        S *to = y + column * column_stride * C;
        for (int p = 0; p < C; p++) {
            const T *from = tile + ((sources ? sources[column] : column) * C + p) * width;
            const T shift = bias ? bias[column * C + p] : T(0);
            int64_t r = 0;
            if constexpr (C == 1)
                for (; r + lanes <= count; r += lanes) store_narrow(to + r, load(from + r) + shift);
            for (; r < count; r++) narrow(from[r] + shift, to + r * C + p);
        }
    }
}

template <class S, class T, int C>
static void load_tile(const packed_chain *head, km_matrix x, int64_t start, int64_t count, T *tile) {
    const char *base = (const char *)head;
    const int64_t width = int64_t(head->tile_vectors) * simd<T>::lanes, line = width * C;
    const int64_t *lines = head->lines ? (const int64_t *)(base + head->lines) : nullptr;
    const S *from = (const S *)x.data + start * x.row_stride * C;
    if (x.column_stride == 1) {
        load_rows<S, T, C>(from, x.row_stride, head->n_in * C, lines, tile, width, count);
    } else {
        load_columns<S, T, C>(from, x.column_stride, head->n_in, lines, tile, width, count);
    }
    const int64_t *zero = (const int64_t *)(base + head->zero), *again = (const int64_t *)(base + head->again);
    for (int64_t i = 0; i < head->n_zero; i++) __builtin_memset(tile + zero[i] * line, 0, size_t(line) * sizeof(T));
    for (int64_t i = 0; i < head->n_again; i++)
        __builtin_memcpy(tile + again[2 * i] * line, tile + again[2 * i + 1] * line, size_t(line) * sizeof(T));
}

template <class S, class T, int C>
static void store_tile(const packed_chain *head, km_matrix y, int64_t start, int64_t count, const T *tile) {
    const char *base = (const char *)head;
    const int64_t width = int64_t(head->tile_vectors) * simd<T>::lanes;
    const int64_t *sources = head->sources ? (const int64_t *)(base + head->sources) : nullptr;
    const T *bias = head->bias ? (const T *)(base + head->bias) : nullptr;
    S *to = (S *)y.data + start * y.row_stride * C;
    if (y.column_stride == 1) {
        store_rows<S, T, C>(to, y.row_stride, head->n_out * C, sources, bias, tile, width, count);
    } else {
        store_columns<S, T, C>(to, y.column_stride, head->n_out, sources, bias, tile, width, count);
    }
}

// ---- rows straight to registers and back, for the first and the last pass ----

template <class S, class T, int C> struct in_rows {
    S *data;
    int64_t row_stride, width;
    const T *bias;

    // Whether groups of this pass are neighbouring columns that fill whole vectors, and no row of the tile is missing.
    static bool fits(const packed_pass *pass, km_matrix m, int64_t width, int64_t count) {
        return width == count && pass->log_radix && pass->d == 1 && m.column_stride == 1 && (C << pass->log_radix) % simd<T>::lanes == 0;
    }

    template <int FEATURES> KM_INLINE void load_group(int64_t group, int64_t r, vec<T> *x) const {
        constexpr int lanes = simd<T>::lanes;
        if constexpr (FEATURES * C % lanes == 0) {
            const int64_t step = row_stride * C;
            const S *from = data + group * C + r * step;
#pragma GCC unroll 4
            for (int v = 0; v < FEATURES * C; v += lanes) {
                const S *at = from + v;
#pragma GCC unroll 16
                for (int i = 0; i < lanes; i++) {
                    x[v + i] = load_wide(at + i % 4 * step);
                    ask_for(at + i % 4 * step + width * step);
                    if (i % 4 == 3 && i + 1 < lanes) at = here(at + 4 * step);
                }
                transpose<T>(x + v);
            }
        } else {
            __builtin_unreachable();  // `fits` said no
        }
    }

    template <int FEATURES> KM_INLINE void store_group(int64_t group, int64_t r, vec<T> *x) const {
        constexpr int lanes = simd<T>::lanes;
        if constexpr (FEATURES * C % lanes == 0) {
            const int64_t step = row_stride * C;
            S *to = data + group * C + r * step;
#pragma GCC unroll 4
            for (int v = 0; v < FEATURES * C; v += lanes) {
                transpose<T>(x + v);
                if (bias) {
                    const vec<T> shift = load(bias + group * C + v);
#pragma GCC unroll 16
                    for (int i = 0; i < lanes; i++) x[v + i] += shift;
                }
                S *at = to + v;
#pragma GCC unroll 16
                for (int i = 0; i < lanes; i++) {
                    store_narrow(at + i % 4 * step, x[v + i]);
                    if (i % 4 == 3 && i + 1 < lanes) at = here(at + 4 * step);
                }
            }
        } else {
            __builtin_unreachable();
        }
    }
};

#endif
