// Rows under masks that are differences of two windows of one table, and the gradients of that: one pass over the data.
//
// The mask of row k at place j is stairs[first_k + j] - stairs[last_k + j]. Windows are contiguous, so a mask is never
// stored: the tables stay in the nearest cache, and what goes through memory is the content alone.
#ifndef KMATRIX_WINDOWS_ROWS_H
#define KMATRIX_WINDOWS_ROWS_H

#include "simd.h"

namespace windows {

constexpr int64_t numbers_worth_threads = 1 << 16;

static int32_t useful_threads(const km_windows *all, int32_t threads) {
    if (all->rows * all->size < numbers_worth_threads) return 1;
    return threads < all->rows ? threads : int32_t(all->rows);
}

// ---- content under masks ----

template <class T> static void masked_row(const T *content, const T *first, const T *last, T *out, int64_t size) {
    constexpr int64_t lanes = simd<T>::lanes;
    int64_t j = 0;
    for (; j + 2 * lanes <= size; j += 2 * lanes) {
        store(out + j, load(content + j) * (load(first + j) - load(last + j)));
        store(out + j + lanes, load(content + j + lanes) * (load(first + j + lanes) - load(last + j + lanes)));
    }
    for (; j < size; j++) out[j] = content[j] * (first[j] - last[j]);
}

template <class T> static void masked(const km_windows *all, T *out, int32_t threads) {
    const T *content = (const T *)all->content, *stairs = (const T *)all->stairs;
    const int64_t size = all->size;
    threads = useful_threads(all, threads);
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t k = 0; k < all->rows; k++) {
        const int64_t first = all->first[k], last = all->last[k], at = k * size;
        masked_row(content + at, stairs + first, stairs + last, out + at, size);
    }
}

// ---- gradients ----

// A sum in float loses with the number of its terms, so no lane adds more than this many before double takes over.
constexpr int64_t terms_of_a_lane = 64;

template <class T> static double sum_of(vec<T> v) {
    T part[simd<T>::lanes];
    store(part, v);
    for (int64_t half = simd<T>::lanes / 2; half; half /= 2)
        for (int64_t i = 0; i < half; i++) part[i] += part[i + half];
    return double(part[0]);
}

// What one place gives: the gradient of its content, and what the steps at both ends of the box are multiplied by.
template <class T> struct gradient_row {
    const T *grad, *content, *first, *last, *first_slope, *last_slope;
    T *to_content;

    KM_INLINE void vector(int64_t j, vec<T> *at_first, vec<T> *at_last) const {
        const vec<T> g = load(grad + j), both = g * load(content + j);
        store(to_content + j, g * (load(first + j) - load(last + j)));
        *at_first += both * load(first_slope + j);
        *at_last += both * load(last_slope + j);
    }

    void sums(int64_t size, double *at_first, double *at_last) const {
        constexpr int64_t lanes = simd<T>::lanes;
        int64_t j = 0;
        while (j + 2 * lanes <= size) {
            vec<T> a{}, b{}, c{}, d{};
            for (int64_t i = 0; i < terms_of_a_lane && j + 2 * lanes <= size; i++, j += 2 * lanes) {
                vector(j, &a, &c);
                vector(j + lanes, &b, &d);
            }
            *at_first += sum_of<T>(a + b);
            *at_last += sum_of<T>(c + d);
        }
        for (; j < size; j++) {
            const T both = grad[j] * content[j];
            to_content[j] = grad[j] * (first[j] - last[j]);
            *at_first += double(both * first_slope[j]);
            *at_last += double(both * last_slope[j]);
        }
    }
};

template <class T>
static void gradients(const km_windows *all, const T *grad, T *to_content, T *to_width, T *to_start, int32_t threads) {
    const T *content = (const T *)all->content, *stairs = (const T *)all->stairs, *slopes = (const T *)all->slopes;
    threads = useful_threads(all, threads);
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t k = 0; k < all->rows; k++) {
        const int64_t first = all->first[k], last = all->last[k];
        const gradient_row<T> row = {grad + k * all->size, content + k * all->size, stairs + first,
                                     stairs + last, slopes + first, slopes + last, to_content + k * all->size};
        double at_first = 0, at_last = 0;
        row.sums(all->size, &at_first, &at_last);
        to_width[k] = T(at_last);
        to_start[k] = T(at_last - at_first);
    }
}

}  // namespace windows

#endif
