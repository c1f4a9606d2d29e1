// What rows look like on the two ends of a chain, whichever way its columns are gathered and taken: lines of features
// for the passes back and forth.
#ifndef KMATRIX_TILE_ENDS_H
#define KMATRIX_TILE_ENDS_H

#include "tile_io.h"

// A chain of nothing but columns: for matrices that come in and go out as they are.
static packed_chain plain_columns(int32_t tile_vectors, int64_t columns) {
    packed_chain head = {};
    head.tile_vectors = tile_vectors;
    head.n_in = head.n_out = columns;
    return head;
}

template <class T> static void add_line(T *to, const T *from, int64_t numbers) {
    for (int64_t r = 0; r < numbers; r += simd<T>::lanes) store(to + r, load(to + r) + load(from + r));
}

// Line i of `to` is line index[i] of `from`, or zero.
template <class T> static void take_lines(const int64_t *index, int64_t count, const T *from, T *to, int64_t line) {
    for (int64_t i = 0; i < count; i++, to += line) {
        if (index[i] < 0) __builtin_memset(to, 0, size_t(line) * sizeof(T));
        else __builtin_memcpy(to, from + index[i] * line, size_t(line) * sizeof(T));
    }
}

// The transpose of that: line index[i] of the `n_to` lines of `to` collects line i of `from`.
template <class T>
static void collect_lines(const int64_t *index, int64_t count, const T *from, T *to, int64_t n_to, int64_t line) {
    __builtin_memset(to, 0, size_t(n_to * line) * sizeof(T));
    for (int64_t i = 0; i < count; i++, from += line)
        if (index[i] >= 0) add_line(to + index[i] * line, from, line);
}

// Rows that are missing add nothing to sums over the rows.
template <class T> static void clear_rows(T *tile, int64_t lines, int64_t count, int64_t width) {
    for (int64_t i = 0; count < width && i < lines; i++)
        for (int64_t r = count; r < width; r++) tile[i * width + r] = T(0);
}

// Rows of x as features of the first factor; `columns` has room for those of the matrix.
template <class S, class T, int C>
static void load_features(const km_chain *chain, int32_t vectors, km_matrix x, int64_t start, int64_t count, T *tile,
                          T *columns) {
    const int64_t width = int64_t(vectors) * simd<T>::lanes, features = first_features(chain);
    const packed_chain plain = plain_columns(vectors, chain->n_in);
    load_tile<S, T, C>(&plain, x, start, count, chain->gather ? columns : tile);
    if (chain->gather) take_lines(chain->gather, features, columns, tile, C * width);
    clear_rows(tile, features * C, count, width);
}

// Gradients of y as gradients of the features of the last factor.
template <class S, class T, int C>
static void load_grad(const km_chain *chain, int32_t vectors, km_matrix grad, int64_t start, int64_t count, T *tile,
                      T *columns) {
    const km_factor *last = chain->factors + chain->n_factors - 1;
    const int64_t width = int64_t(vectors) * simd<T>::lanes, features = last->a * last->b * last->d;
    const packed_chain plain = plain_columns(vectors, chain->n_out);
    load_tile<S, T, C>(&plain, grad, start, count, chain->take ? columns : tile);
    if (chain->take) collect_lines(chain->take, chain->n_out, columns, tile, features, C * width);
    clear_rows(tile, features * C, count, width);
}

// Gradients of the features of the first factor as gradients of x.
template <class S, class T, int C>
static void store_grad(const km_chain *chain, int32_t vectors, km_matrix grad_x, int64_t start, int64_t count,
                       const T *tile, T *columns) {
    const int64_t width = int64_t(vectors) * simd<T>::lanes;
    const packed_chain plain = plain_columns(vectors, chain->n_in);
    if (chain->gather) collect_lines(chain->gather, first_features(chain), tile, columns, chain->n_in, C * width);
    store_tile<S, T, C>(&plain, grad_x, start, count, chain->gather ? columns : tile);
}

#endif
