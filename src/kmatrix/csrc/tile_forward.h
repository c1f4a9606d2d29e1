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

template <class S, class T, int C>
static void forward_tile(const packed_chain *head, km_matrix x, km_matrix y, int64_t start, int64_t count, T *scratch) {
    const T *weights = (const T *)((const char *)head + head->weights);
    const int64_t width = int64_t(head->tile_vectors) * simd<T>::lanes;
    T *tile = scratch, *spare = scratch + tile_bytes<T, C>(head->features, head->tile_vectors) / int64_t(sizeof(T));
    load_tile<S, T, C>(head, x, start, count, tile);
    for (int p = 0; p < head->n_passes; p++) {
        T *result = run_pass<T, C>(head->passes + p, weights, tile, spare, width);
        if (result == spare) spare = tile, tile = result;
    }
    store_tile<S, T, C>(head, y, start, count, tile);
}

template <class S, class T, int C>
static void forward_tiles(const packed_chain *head, km_matrix x, km_matrix y, int64_t batch, char *scratch,
                          int64_t scratch_bytes, int32_t threads) {
    const int64_t width = int64_t(head->tile_vectors) * simd<T>::lanes, tiles = (batch + width - 1) / width;
    const auto one = [=](int64_t i, T *own) {
        const int64_t start = i * width;
        forward_tile<S, T, C>(head, x, y, start, batch - start < width ? batch - start : width, own);
    };
    if (threads <= 1 || tiles == 1) {
        for (int64_t i = 0; i < tiles; i++) one(i, (T *)scratch);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < tiles; i++) one(i, (T *)(scratch + omp_get_thread_num() * scratch_bytes));
}

#endif
