// Sums of rank-one boxes on any number of rows: tiles of rows, transposed once, weights packed in order of use.
//
// Two stages with the middle vector z between them, one number for each box. The first keeps a block of neighbouring
// columns of the tile in registers while every box that covers it adds to its z; the second keeps a block of
// neighbouring rows while every box that covers it adds its z. Boxes are numbered by their first column, so the z that
// the first stage touches lie together and move on slowly, and those of the second come and go one by one.
#ifndef KMATRIX_SEGMENTS_TILE_H
#define KMATRIX_SEGMENTS_TILE_H

#include "segments_packing.h"
#include "tile_io.h"

namespace segments {

constexpr int64_t run_of_boxes = 64;

// Adds the products of a block of columns to the z of the boxes that cover it, summed up first: in one long sum the
// errors of rounding would grow with the width of the box.
template <class T, int V>
static void into_boxes(const T *columns, const int32_t *box, const T *weights, int64_t entries, T *z) {
    constexpr int lanes = simd<T>::lanes, width = V * lanes;
    vec<T> x[block][V];
#pragma GCC unroll 8
    for (int p = 0; p < block; p++)
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) x[p][v] = load(columns + p * width + v * lanes);
    for (int64_t e = 0; e < entries; e++) {
        T *line = z + int64_t(box[e]) * width;
        const T *w = weights + e * block;
        vec<T> sum[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) sum[v] = w[0] * x[0][v];
#pragma GCC unroll 8
        for (int p = 1; p < block; p++)
#pragma GCC unroll 2
            for (int v = 0; v < V; v++) sum[v] += w[p] * x[p][v];
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) store(line + v * lanes, load(line + v * lanes) + sum[v]);
    }
}

// Adds to the rows of a block the z of some boxes that cover it, each times its weight in the row.
template <class T, int V>
static void out_of_some(const T *z, const int32_t *box, const T *weights, int64_t entries, T *rows) {
    constexpr int lanes = simd<T>::lanes, width = V * lanes;
    vec<T> y[block][V];
#pragma GCC unroll 8
    for (int p = 0; p < block; p++)
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) y[p][v] = vec<T>{};
    for (int64_t e = 0; e < entries; e++) {
        const T *line = z + int64_t(box[e]) * width, *w = weights + e * block;
        vec<T> one[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) one[v] = load(line + v * lanes);
#pragma GCC unroll 8
        for (int p = 0; p < block; p++)
#pragma GCC unroll 2
            for (int v = 0; v < V; v++) y[p][v] += w[p] * one[v];
    }
#pragma GCC unroll 8
    for (int p = 0; p < block; p++)
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) {
            T *to = rows + p * width + v * lanes;
            store(to, load(to) + y[p][v]);
        }
}

// The same for all boxes that cover it, some at a time: short sums, as above.
template <class T, int V>
static void out_of_boxes(const T *z, const int32_t *box, const T *weights, int64_t entries, T *rows) {
    __builtin_memset(rows, 0, block * V * KM_VECTOR_BYTES);
    for (int64_t e = 0; e < entries; e += run_of_boxes)
        out_of_some<T, V>(z, box + e, weights + e * block, entries - e < run_of_boxes ? entries - e : run_of_boxes, rows);
}

// Lines of a tile that holds the columns, and later the rows, up to the end of the last block.
static int64_t tile_lines(const packed_boxes *head) {
    const int64_t widest = head->n_in > head->n_out ? head->n_in : head->n_out;
    return blocks_of(widest) * block;
}

static int64_t tile_scratch_bytes(int64_t n_in, int64_t n_out, int64_t n_boxes) {
    const int64_t widest = n_in > n_out ? n_in : n_out;
    return aligned((blocks_of(widest) * block + n_boxes) * 2 * KM_VECTOR_BYTES);
}

template <class S, class T, int V>
static void forward_tile(const packed_boxes *head, km_matrix x, km_matrix y, const T *bias, int64_t start, int64_t count,
                         T *tile) {
    constexpr int64_t width = V * simd<T>::lanes;
    const char *base = (const char *)head;
    T *z = tile + tile_lines(head) * width;
    const S *from = (const S *)x.data + start * x.row_stride;
    if (x.column_stride == 1)
        load_rows<S, T, 1>(from, x.row_stride, head->n_in, nullptr, tile, width, count);
    else
        load_columns<S, T, 1>(from, x.column_stride, head->n_in, nullptr, tile, width, count);
    const int64_t padding = head->in.blocks * block - head->n_in;
    __builtin_memset(tile + head->n_in * width, 0, size_t(padding * width) * sizeof(T));
    __builtin_memset(z, 0, size_t(head->n_boxes * width) * sizeof(T));
    {
        const int64_t *begin = (const int64_t *)(base + head->in.begin);
        const int32_t *box = (const int32_t *)(base + head->in.boxes);
        const T *weights = (const T *)(base + head->in.weights);
        for (int64_t b = 0; b < head->in.blocks; b++)
            into_boxes<T, V>(tile + b * block * width, box + begin[b], weights + begin[b] * block,
                             begin[b + 1] - begin[b], z);
    }
    const int64_t *begin = (const int64_t *)(base + head->out.begin);
    const int32_t *box = (const int32_t *)(base + head->out.boxes);
    const T *weights = (const T *)(base + head->out.weights);
    for (int64_t b = 0; b < head->out.blocks; b++)
        out_of_boxes<T, V>(z, box + begin[b], weights + begin[b] * block, begin[b + 1] - begin[b],
                           tile + b * block * width);
    S *to = (S *)y.data + start * y.row_stride;
    if (y.column_stride == 1)
        store_rows<S, T, 1>(to, y.row_stride, head->n_out, nullptr, bias, tile, width, count);
    else
        store_columns<S, T, 1>(to, y.column_stride, head->n_out, nullptr, bias, tile, width, count);
}

// Few rows fill a tile of one vector better, and what is left over from tiles of two goes through one as well.
template <class S, class T>
static void forward_part(const packed_boxes *head, km_matrix x, km_matrix y, const T *bias, int64_t start, int64_t count,
                         T *tile) {
    if (count <= simd<T>::lanes)
        forward_tile<S, T, 1>(head, x, y, bias, start, count, tile);
    else
        forward_tile<S, T, 2>(head, x, y, bias, start, count, tile);
}

template <class S, class T>
static void forward(const packed_boxes *head, km_matrix x, km_matrix y, const S *bias, int64_t batch, char *scratch,
                    int64_t scratch_bytes, int32_t threads) {
    const T *shift = nullptr;
    if (bias) {
        T *wide = (T *)(scratch + scratch_bytes * (threads > 1 ? threads : 1));
        for (int64_t i = 0; i < head->n_out; i++) wide[i] = T(widen(bias[i]));
        shift = wide;
    }
    const int64_t width = 2 * simd<T>::lanes, tiles = (batch + width - 1) / width;
    const auto one = [=](int64_t i, T *own) {
        const int64_t start = i * width;
        forward_part<S, T>(head, x, y, shift, start, batch - start < width ? batch - start : width, own);
    };
    if (threads <= 1 || tiles == 1) {
        for (int64_t i = 0; i < tiles; i++) one(i, (T *)scratch);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < tiles; i++) one(i, (T *)(scratch + omp_get_thread_num() * scratch_bytes));
}

}  // namespace segments

#endif
