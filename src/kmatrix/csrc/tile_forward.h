// A chain on any number of rows: tiles of rows go through all passes while they are in cache, so that the vectors are
// read once and written once.
#ifndef KMATRIX_TILE_FORWARD_H
#define KMATRIX_TILE_FORWARD_H

#include "passes.h"
#include "tile_io.h"

static int64_t widest_features(const km_chain *chain) {
    int64_t widest = 0;
    for (int i = 0; i < chain->n_factors; i++) {
        const km_factor *f = chain->factors + i;
        if (f->a * f->c * f->d > widest) widest = f->a * f->c * f->d;
        if (f->a * f->b * f->d > widest) widest = f->a * f->b * f->d;
    }
    return widest;
}

template <class T, int C> static int64_t tile_bytes(int64_t features, int64_t tile_vectors) {
    return aligned(features * C * tile_vectors * KM_VECTOR_BYTES);
}

// One tile on its way through a chain.
template <class S, class T, int C>
static void forward_tile(const packed_chain *head, km_matrix x, km_matrix y, int64_t start, int64_t count, T *tile,
                         T *spare) {
    typedef in_rows<S, T, C> rows;
    const T *weights = (const T *)((const char *)head + head->weights);
    const int64_t width = int64_t(head->tile_vectors) * simd<T>::lanes;
    const packed_pass *first = head->passes, *last = head->passes + head->n_passes - 1;
    int p = 0;
    if (!head->lines && head->n_passes > 1 && rows::fits(first, x, width, count)) {
        const rows from{(S *)x.data + start * x.row_stride * C, x.row_stride, width, nullptr};
        run_any_stages<T, C>(first, weights + first->offset, from, in_lines<T, C>{tile, width, 1}, width);
        p = 1;
    } else {
        load_tile<S, T, C>(head, x, start, count, tile);
    }
    const bool straight = !head->sources && p < head->n_passes && rows::fits(last, y, width, count);
    for (; p < head->n_passes - straight; p++) {
        T *result = run_pass<T, C>(head->passes + p, weights, tile, spare, width);
        if (result == spare) spare = tile, tile = result;
    }
    if (!straight) return store_tile<S, T, C>(head, y, start, count, tile);
    const T *bias = head->bias ? (const T *)((const char *)head + head->bias) : nullptr;
    const rows to{(S *)y.data + start * y.row_stride * C, y.row_stride, width, bias};
    run_any_stages<T, C>(last, weights + last->offset, in_lines<T, C>{tile, width, 1}, to, width);
}

template <class S, class T, int C>
static void forward_tiles(const packed_chain *head, km_matrix x, km_matrix y, int64_t batch, char *scratch,
                          int64_t scratch_bytes, int32_t threads) {
    const int64_t width = int64_t(head->tile_vectors) * simd<T>::lanes, tiles = (batch + width - 1) / width;
    const int64_t spare = tile_bytes<T, C>(head->features, head->tile_vectors) / int64_t(sizeof(T));
    const auto one = [=](int64_t i, T *own) {
        const int64_t start = i * width;
        const int64_t count = batch - start < width ? batch - start : width;
        forward_tile<S, T, C>(head, x, y, start, count, own, own + spare);
    };
    if (threads <= 1 || tiles == 1) {
        for (int64_t i = 0; i < tiles; i++) one(i, (T *)scratch);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < tiles; i++) one(i, (T *)(scratch + omp_get_thread_num() * scratch_bytes));
}

#endif
