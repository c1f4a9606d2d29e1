// Gradients of a chain: a tile of rows runs forward once more and keeps what enters each pass, then the gradient runs
// back through the passes. What all tiles add to the gradients of the weights stays with the thread until the end.
#ifndef KMATRIX_TILE_BACKWARD_H
#define KMATRIX_TILE_BACKWARD_H

#include "gradients_blocks.h"
#include "gradients_stages.h"
#include "tile_forward.h"

// What the scratch of one thread holds, in numbers of the arithmetic from its start.
struct backward_scratch {
    int64_t kept;      // what enters each pass, one after the other
    int64_t grad;      // gradient of what leaves the last pass
    int64_t columns;   // columns of grad or of grad_x, where they are not the features themselves
    int64_t own;       // one group of a pass of 2x2 factors
    int64_t sums, n_sums;
    int64_t end;
};

template <class T> static int64_t aligned_numbers(int64_t numbers) {
    return aligned(numbers * int64_t(sizeof(T))) / int64_t(sizeof(T));
}

template <class T, int C> static int64_t sums_of_pass(const packed_pass *pass) {
    if (pass->log_radix) return aligned_numbers<T>(pass->a * pass->d * sums_of_group<T, C>(pass));
    return aligned_numbers<T>(pass->copies_a * pass->copies_d * sums_of_block<T, C>(pass));
}

template <class T, int C> static int64_t own_of_pass(const packed_pass *pass) {
    step_back steps[max_stages];
    return pass->log_radix ? C * (int64_t(steps_of<C>(pass, steps)) << pass->log_radix) : 0;
}

template <class T, int C> static backward_scratch plan_backward(const km_chain *chain) {
    const int64_t width = int64_t(chain->tile_vectors) * simd<T>::lanes;
    int64_t entering = 0, leaving = 0, own = 0, sums = 0;
    int32_t first = 0;
    for (int p = 0; p < chain->n_passes; first += chain->pass_factors[p++]) {
        const packed_pass pass = describe_pass(chain, first, chain->pass_factors[p]);
        entering += pass.features_in, leaving = pass.features_out;
        sums += sums_of_pass<T, C>(&pass);
        if (own_of_pass<T, C>(&pass) > own) own = own_of_pass<T, C>(&pass);
    }
    int64_t columns = chain->take ? chain->n_out : 0;
    if (chain->gather && chain->n_in > columns) columns = chain->n_in;
    backward_scratch plan = {};
    plan.grad = plan.kept + entering * C * width;
    plan.columns = plan.grad + leaving * C * width;
    plan.own = plan.columns + columns * C * width;
    plan.sums = plan.own + own * width;
    plan.n_sums = sums;
    plan.end = aligned_numbers<T>(plan.sums + sums);
    return plan;
}

// ---- one tile ----

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

// Features of the last factor that several columns of y show collect all their gradients, others get zero.
template <class S, class T, int C>
static void load_grad(const packed_chain *head, km_matrix grad, int64_t start, int64_t count, int64_t features, T *tile,
                      T *columns, int64_t width) {
    const packed_chain plain = plain_columns(head->tile_vectors, head->n_out);
    load_tile<S, T, C>(&plain, grad, start, count, head->sources ? columns : tile);
    if (!head->sources) return;
    const int64_t line = C * width, *sources = (const int64_t *)((const char *)head + head->sources);
    __builtin_memset(tile, 0, size_t(features * line) * sizeof(T));
    for (int64_t i = 0; i < head->n_out; i++) add_line(tile + sources[i] * line, columns + i * line, line);
}

template <class S, class T, int C>
static void store_grad_x(const packed_chain *head, km_matrix grad_x, int64_t start, int64_t count, T *tile, T *columns,
                         int64_t width) {
    const packed_chain plain = plain_columns(head->tile_vectors, head->n_in);
    if (head->lines) {
        const char *base = (const char *)head;
        const int64_t line = C * width, *lines = (const int64_t *)(base + head->lines);
        const int64_t *again = (const int64_t *)(base + head->again);
        for (int64_t i = 0; i < head->n_again; i++) add_line(tile + again[2 * i + 1] * line, tile + again[2 * i] * line, line);
        for (int64_t i = 0; i < head->n_in; i++) {
            if (lines[i] < 0) __builtin_memset(columns + i * line, 0, size_t(line) * sizeof(T));
            else __builtin_memcpy(columns + i * line, tile + lines[i] * line, size_t(line) * sizeof(T));
        }
    }
    store_tile<S, T, C>(&plain, grad_x, start, count, head->lines ? columns : tile);
}

// Rows that are missing add nothing to sums over the rows.
template <class T> static void clear_rows(T *tile, int64_t lines, int64_t count, int64_t width) {
    for (int64_t i = 0; i < lines; i++)
        for (int64_t r = count; r < width; r++) tile[i * width + r] = T(0);
}

template <class T, int C, int K>
KM_INLINE void stages_forward(const packed_pass *pass, const T *w, const T *in, T *out, int64_t width) {
    constexpr int features = 1 << K;
    const int64_t line = C * width, distance = pass->d * line;
    for (int64_t o = 0; o < pass->a; o++)
        for (int64_t e = 0; e < pass->d; e++, w += pass->group * C) {
            const int64_t first = o * features * distance + e * line;
            for (int64_t r = 0; r < width; r += simd<T>::lanes) {
                vec<T> x[features * C];
#pragma GCC unroll 16
                for (int i = 0; i < features; i++) load_feature<T, C>(in + first + i * distance + r, width, x + i * C);
                const T *at = w;
                for (int s = 0; s < pass->count; s++) at = stage<T, C, K>(pass->shift[s], pass->form[s], at, x);
#pragma GCC unroll 16
                for (int i = 0; i < features; i++) store_feature<T, C>(out + first + i * distance + r, width, x + i * C);
            }
        }
}

// What enters the next pass.
template <class T, int C>
static void pass_forward(const packed_pass *pass, const T *w, const T *in, T *out, int64_t width) {
    switch (pass->log_radix) {
        case 0: return run_block<T, C>(pass, w, in, out, width);
        case 1: return stages_forward<T, C, 1>(pass, w, in, out, width);
        case 2: return stages_forward<T, C, 2>(pass, w, in, out, width);
        case 3:
            if constexpr (C == 1 || max_log_radix_complex >= 3) stages_forward<T, C, 3>(pass, w, in, out, width);
            return;
        default:
            if constexpr (C == 1 && max_log_radix >= 4) stages_forward<T, C, 4>(pass, w, in, out, width);
    }
}

// Returns where the gradient of what entered the pass is: in the place of what entered, or of the gradient above.
template <class T, int C>
static T *pass_back(const packed_pass *pass, const T *w, T *in, T *grad, T *own, T *sums, int64_t width, bool need_below) {
    switch (pass->log_radix) {
        case 0: gradients_of_block<T, C>(pass, w, in, grad, sums, width, need_below); return in;
        case 1: gradients_of_stages<T, C, 1>(pass, w, in, grad, own, sums, width); return grad;
        case 2: gradients_of_stages<T, C, 2>(pass, w, in, grad, own, sums, width); return grad;
        case 3:
            if constexpr (C == 1 || max_log_radix_complex >= 3)
                gradients_of_stages<T, C, 3>(pass, w, in, grad, own, sums, width);
            return grad;
        default:
            if constexpr (C == 1 && max_log_radix >= 4) gradients_of_stages<T, C, 4>(pass, w, in, grad, own, sums, width);
            return grad;
    }
}

template <class S, class T, int C> struct backward_call {
    const packed_chain *head;
    backward_scratch plan;
    km_matrix grad, x, grad_x;
    int64_t batch;

    int64_t width() const { return int64_t(head->tile_vectors) * simd<T>::lanes; }

    void tile(int64_t start, int64_t count, T *scratch) const {
        const T *weights = (const T *)((const char *)head + head->weights);
        const int64_t line = C * width();
        const packed_pass *last = head->passes + head->n_passes - 1;
        T *in = scratch + plan.kept, *above = scratch + plan.grad, *columns = scratch + plan.columns;
        load_tile<S, T, C>(head, x, start, count, in);
        if (count < width()) clear_rows(in, head->passes->features_in * C, count, width());
        for (const packed_pass *pass = head->passes; pass != last; pass++) {
            T *out = in + pass->features_in * line;
            pass_forward<T, C>(pass, weights + pass->offset, in, out, width());
            in = out;
        }
        load_grad<S, T, C>(head, grad, start, count, last->features_out, above, columns, width());
        if (count < width()) clear_rows(above, last->features_out * C, count, width());
        T *sums = scratch + plan.sums + plan.n_sums;
        for (const packed_pass *pass = last;; pass--) {
            sums -= sums_of_pass<T, C>(pass);
            above = pass_back<T, C>(pass, weights + pass->offset, in, above, scratch + plan.own, sums, width(),
                                    pass != head->passes || grad_x.data);
            if (pass == head->passes) break;
            in -= (pass - 1)->features_in * line;
        }
        if (grad_x.data) store_grad_x<S, T, C>(head, grad_x, start, count, above, columns, width());
    }

    // Every worker has the same tiles whichever thread it is, so that sums do not depend on who was first.
    void work(int64_t worker, int64_t workers, T *scratch) const {
        const int64_t tiles = (batch + width() - 1) / width();
        __builtin_memset(scratch + plan.sums, 0, size_t(plan.n_sums) * sizeof(T));
        for (int64_t i = tiles * worker / workers; i < tiles * (worker + 1) / workers; i++) {
            const int64_t left = batch - i * width();
            tile(i * width(), left < width() ? left : width(), scratch);
        }
    }
};

// ---- all tiles ----

template <class T, int C>
static void unpack_gradients(const km_chain *chain, const packed_chain *head, const T *sums, void *const *grad_weights) {
    for (int p = 0; p < head->n_passes; p++) {
        const packed_pass *pass = head->passes + p;
        if (!pass->log_radix) {
            unpack_block<T, C>(chain->factors + pass->first, pass, sums, (T *)grad_weights[pass->first]);
        } else {
            for (int i = pass->first; i < pass->first + pass->count; i++) {
                const km_factor *f = chain->factors + i;
                const int64_t numbers = (f->sa ? f->a : 1) * 4 * (f->sd ? f->d : 1) * C;
                __builtin_memset(grad_weights[i], 0, size_t(numbers) * sizeof(T));
            }
            unpack_stages<T, C>(chain, pass, sums, grad_weights);
        }
        sums += sums_of_pass<T, C>(pass);
    }
}

template <class S, class T, int C>
static void backward_tiles(const km_chain *chain, const packed_chain *head, km_matrix grad, km_matrix x,
                           km_matrix grad_x, void *const *grad_weights, int64_t batch, T *scratch, int32_t threads) {
    const backward_call<S, T, C> call = {head, plan_backward<T, C>(chain), grad, x, grad_x, batch};
    const int64_t tiles = (batch + call.width() - 1) / call.width(), workers = tiles < threads ? tiles : threads;
    const int64_t size = call.plan.end;
    if (workers <= 1) {
        call.work(0, 1, scratch);
    } else {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
        for (int64_t i = 0; i < workers; i++) call.work(i, workers, scratch + i * size);
        for (int64_t i = 1; i < workers; i++)
            add_line(scratch + call.plan.sums, scratch + i * size + call.plan.sums, call.plan.n_sums);
    }
    unpack_gradients<T, C>(chain, head, scratch + call.plan.sums, grad_weights);
}

#endif
