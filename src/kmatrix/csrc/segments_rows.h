// Sums of rank-one boxes on a few rows: weights read where they are, once for all rows; nothing is packed.
//
// A box is a dot product on its columns and a multiple added on its rows. The vectors lie twice, one copy behind the
// other, so that no segment goes around the end. They are met in whole aligned vectors, the ends of a segment masked:
// what one box has stored, the next one loads as it was stored, and the processor need not wait for the cache.
#ifndef KMATRIX_SEGMENTS_ROWS_H
#define KMATRIX_SEGMENTS_ROWS_H

#include "lane_sums.h"
#include "segments_packing.h"

namespace segments {

constexpr int64_t most_rows = 4;
constexpr int64_t numbers_worth_threads = 1 << 18;

// ---- the ends of a segment ----

template <class T> using flags_of = decltype(vec<T>{} < vec<T>{});

template <class T, int... I> KM_INLINE flags_of<T> counted(lane_list<I...>) { return flags_of<T>{I...}; }

// Which lanes are at least `first` and below `end`.
template <class T> KM_INLINE flags_of<T> lanes_between(int64_t first, int64_t end) {
    const flags_of<T> lane = counted<T>(all_lanes<T>{});
    typedef decltype(flags_of<T>{}[0] + 0) number;
    return (lane >= number(first)) & (lane < number(end));
}

// Those lanes of a vector in memory, of which nothing else may be read.
template <class S, class T> static vec<T> load_between(const S *from, int64_t first, int64_t end) {
    vec<T> some{};
    for (int64_t i = first; i < end; i++) some[i] = T(widen(from[i]));
    return some;
}

// A segment as whole vectors: they start `head` numbers before it and the last of them is filled up to `tail`.
template <class S, class T> struct stretch {
    const S *weights;  // of the first vector
    int64_t at, head, tail, last;
    bool whole;        // whether whole vectors of weights may be read at both ends

    stretch(const S *own, int64_t start, int64_t width, const S *begin, const S *end) {
        constexpr int64_t lanes = simd<T>::lanes;
        head = start % lanes;
        at = start - head;
        weights = own - head;
        last = (head + width - 1) / lanes;
        tail = head + width - last * lanes;
        whole = weights >= begin && weights + (last + 1) * lanes <= end;
    }

    // The weights of the first or the last vector (which may be one), outside of the segment anything.
    KM_INLINE vec<T> load_end(int64_t i, int64_t first, int64_t stop) const {
        constexpr int64_t lanes = simd<T>::lanes;
        if (__builtin_expect(whole, 1)) return load_wide(weights + i * lanes);
        return load_between<S, T>(weights + i * lanes, first, stop);
    }
};

// ---- one box ----
//
// Widths differ from box to box, so every loop ends where the processor did not expect it: there is one loop for the
// whole vectors of a short segment, and several sums at a time only where a segment is long.

constexpr int64_t long_stretch = 24;

// The whole vectors from the second on, four sums at a time; returns the first that is left.
template <class S, class T, int R>
static int64_t dot_long(const S *weights, const T *x, int64_t row, int64_t last, vec<T> *sums) {
    constexpr int64_t lanes = simd<T>::lanes;
    vec<T> sum[R][4] = {};
    int64_t i = 1;
    for (; i + 3 < last; i += 4)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const vec<T> w = load_wide(weights + (i + j) * lanes);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) sum[r][j] += w * load(x + r * row + (i + j) * lanes);
        }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) sums[r] += (sum[r][0] + sum[r][1]) + (sum[r][2] + sum[r][3]);
    return i;
}

// The lanes of `sums[r]` add up to the product of a box with row r.
template <class S, class T, int R>
KM_INLINE void dot(const stretch<S, T> &on, const T *x, int64_t row, vec<T> *sums, int64_t step) {
    constexpr int64_t lanes = simd<T>::lanes;
    const int64_t stop = on.last ? lanes : on.tail;
    const T *from = x + on.at;
    vec<T> sum[R];
    {
        const vec<T> w = on.load_end(0, on.head, stop);
        const flags_of<T> mine = lanes_between<T>(on.head, stop);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            const vec<T> product = w * load(from + r * row);
            sum[r] = mine ? product : vec<T>{};
        }
    }
    int64_t i = 1;
    if (on.last > long_stretch) i = dot_long<S, T, R>(on.weights, from, row, on.last, sum);
    for (; i < on.last; i++) {
        const vec<T> w = load_wide(on.weights + i * lanes);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) sum[r] += w * load(from + r * row + i * lanes);
    }
    if (on.last) {
        const vec<T> w = on.load_end(on.last, 0, on.tail);
        const flags_of<T> mine = lanes_between<T>(0, on.tail);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            const vec<T> product = w * load(from + r * row + on.last * lanes);
            sum[r] += mine ? product : vec<T>{};
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) sums[r * step] = sum[r];
}

// Adds z[r * step] times the box to row r.
template <class S, class T, int R>
KM_INLINE void add(const stretch<S, T> &on, const T *z, int64_t step, T *y, int64_t row) {
    constexpr int64_t lanes = simd<T>::lanes;
    const int64_t stop = on.last ? lanes : on.tail;
    T *to = y + on.at;
    const auto end = [&](int64_t i, int64_t first, int64_t stop) {
        const vec<T> w = on.load_end(i, first, stop);
        const flags_of<T> mine = lanes_between<T>(first, stop);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            const vec<T> product = w * z[r * step];
            T *at = to + r * row + i * lanes;
            store(at, load(at) + (mine ? product : vec<T>{}));
        }
    };
    end(0, on.head, stop);
    for (int64_t i = 1; i < on.last; i++) {
        const vec<T> w = load_wide(on.weights + i * lanes);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            T *at = to + r * row + i * lanes;
            store(at, load(at) + w * z[r * step]);
        }
    }
    if (on.last) end(on.last, 0, on.tail);
}

// ---- all boxes ----

// A row of the buffers: two copies, and what whole vectors reach beyond the second.
template <class T> static int64_t row_numbers(int64_t size) {
    return aligned((2 * size + 2 * simd<T>::lanes) * int64_t(sizeof(T))) / int64_t(sizeof(T));
}

// Boxes begin .. end - 1: y += left (right . x).
template <class S, class T, int R>
static void some_boxes(const km_boxes *all, int64_t begin, int64_t end, const T *x, T *y) {
    constexpr int lanes = simd<T>::lanes;
    const side in = inputs(all), out = outputs(all);
    const int64_t x_row = row_numbers<T>(in.size), y_row = row_numbers<T>(out.size);
    const S *right = (const S *)in.numbers, *left = (const S *)out.numbers;
    const S *right_end = right + all->n_right, *left_end = left + all->n_left;
    const S *w = right, *u = left;
    for (int64_t k = 0; k < begin; k++) w += in.width[k], u += out.width[k];
    vec<T> sums[R * lanes];
    T z[R * lanes];
    for (int64_t k = begin; k < end; k += lanes) {
        const int count = int(end - k < lanes ? end - k : lanes);
        for (int i = 0; i < count; i++) {
            const int64_t width = in.width[k + i];
            if (width)
                dot<S, T, R>({w, in.start[k + i], width, right, right_end}, x, x_row, sums + i, lanes);
            else
                for (int r = 0; r < R; r++) sums[r * lanes + i] = vec<T>{};
            w += width;
        }
        for (int i = count; i < lanes; i++)
            for (int r = 0; r < R; r++) sums[r * lanes + i] = vec<T>{};
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) store(z + r * lanes, lane_sums<T>(sums + r * lanes));
        for (int i = 0; i < count; i++) {
            const int64_t width = out.width[k + i];
            if (width) add<S, T, R>({u, out.start[k + i], width, left, left_end}, z + i, lanes, y, y_row);
            u += width;
        }
    }
}

template <class S, class T> static void twice(const S *x, int64_t step, int64_t size, T *to) {
    constexpr int64_t lanes = simd<T>::lanes;
    int64_t i = 0;
    if (step == 1)
        for (; i + lanes <= size; i += lanes) {
            const vec<T> some = load_wide(x + i);
            store(to + i, some);
            store(to + size + i, some);
        }
    for (; i < size; i++) to[i] = to[size + i] = T(widen(x[i * step]));
    for (i = 2 * size; i < row_numbers<T>(size); i++) to[i] = T(0);
}

template <class S, class T> static void folded(const T *y, int64_t size, const S *bias, S *to, int64_t step) {
    constexpr int64_t lanes = simd<T>::lanes;
    int64_t i = 0;
    if (step == 1)
        for (; i + lanes <= size; i += lanes) {
            const vec<T> both = load(y + i) + load(y + size + i);
            store_narrow(to + i, bias ? both + load_wide(bias + i) : both);
        }
    for (; i < size; i++) narrow(y[i] + y[size + i] + (bias ? T(widen(bias[i])) : T(0)), to + i * step);
}

template <class T> static int64_t rows_scratch_bytes(const km_boxes *all, int32_t threads) {
    return most_rows * (row_numbers<T>(all->n_in) + threads * row_numbers<T>(all->n_out)) * int64_t(sizeof(T));
}

template <class S, class T, int R>
static void multiply_rows(const km_boxes *all, const S *x, int64_t x_row, int64_t x_column, S *y, int64_t y_row,
                          int64_t y_column, const S *bias, T *scratch, int32_t threads) {
    const int64_t from = row_numbers<T>(all->n_in), to = row_numbers<T>(all->n_out);
    T *rows = scratch + R * from;
    for (int r = 0; r < R; r++) twice<S, T>(x + r * x_row, x_column, all->n_in, scratch + r * from);
    if (all->n_left + all->n_right < numbers_worth_threads) threads = 1;
    if (threads > all->n_boxes) threads = all->n_boxes ? int32_t(all->n_boxes) : 1;
    if (threads == 1) {
        __builtin_memset(rows, 0, size_t(R * to) * sizeof(T));
        some_boxes<S, T, R>(all, 0, all->n_boxes, scratch, rows);
    } else {
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int32_t p = 0; p < threads; p++) {
            T *own = rows + p * R * to;
            __builtin_memset(own, 0, size_t(R * to) * sizeof(T));
            some_boxes<S, T, R>(all, all->n_boxes * p / threads, all->n_boxes * (p + 1) / threads, scratch, own);
        }
        for (int32_t p = 1; p < threads; p++)
            for (int64_t i = 0; i < R * to; i += simd<T>::lanes)
                store(rows + i, load(rows + i) + load(rows + p * R * to + i));
    }
    for (int r = 0; r < R; r++) folded<S, T>(rows + r * to, all->n_out, bias, y + r * y_row, y_column);
}

template <class S, class T>
static void multiply(const km_boxes *all, km_matrix x, km_matrix y, const S *bias, int64_t batch, void *scratch,
                     int32_t threads) {
    for (int64_t i = 0; i < batch;) {
        const S *from = (const S *)x.data + i * x.row_stride;
        S *to = (S *)y.data + i * y.row_stride;
        const auto some = [&](auto run) {
            run(all, from, x.row_stride, x.column_stride, to, y.row_stride, y.column_stride, bias, (T *)scratch, threads);
        };
        const int64_t left = batch - i;
        if (left >= 4) some(multiply_rows<S, T, 4>), i += 4;
        else if (left >= 2) some(multiply_rows<S, T, 2>), i += 2;
        else some(multiply_rows<S, T, 1>), i += 1;
    }
}

}  // namespace segments

#endif
