// Gradients of a chain: a tile of rows runs forward once more and keeps what enters each pass, then the gradient runs
// back through the passes. What all tiles add to the gradients of the weights stays with the thread until the end.
#ifndef KMATRIX_TILE_BACKWARD_H
#define KMATRIX_TILE_BACKWARD_H

#include "gradients_blocks.h"
#include "gradients_stages.h"
#include "gradients_unpack.h"
#include "tile_ends.h"

// What the scratch of one thread holds, in numbers of the arithmetic from its start.
struct backward_scratch {
    int32_t vectors;   // of rows in a tile
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

// How high the tiles are, in vectors of rows: sums over the lanes are formed once a tile, so higher than those of the
// forward, but no higher than caches like (2 MB of lines) and than gives every thread a tile.
template <class T, int C>
static int32_t backward_vectors(int64_t lines, int64_t batch, int64_t threads) {
    constexpr int lanes = simd<T>::lanes, most = lanes >= 16 ? 4 : 8;
    int32_t vectors = most;
    while (vectors > 1 && lines * C * vectors * KM_VECTOR_BYTES > (int64_t(2) << 20)) vectors /= 2;
    while (vectors > 1 && batch <= threads * (vectors / 2) * lanes) vectors /= 2;
    return vectors;
}

template <class T, int C>
static backward_scratch plan_backward(const km_chain *chain, int64_t batch, int64_t threads) {
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
    plan.vectors = backward_vectors<T, C>(entering + leaving, batch, threads);
    const int64_t width = int64_t(plan.vectors) * simd<T>::lanes;
    plan.grad = plan.kept + entering * C * width;
    plan.columns = plan.grad + leaving * C * width;
    plan.own = plan.columns + columns * C * width;
    plan.sums = plan.own + own * width;
    plan.n_sums = sums;
    plan.end = aligned_numbers<T>(plan.sums + sums);
    return plan;
}

// ---- one tile ----

// What enters the next pass.
template <class T, int C>
static void pass_forward(const packed_pass *pass, const T *w, T *in, T *out, int64_t width) {
    if (!pass->log_radix) return run_block<T, C>(pass, w, in, out, width);
    run_any_stages<T, C>(pass, w, in_lines<T, C>{in, width, pass->d}, in_lines<T, C>{out, width, pass->d}, width);
}

// Returns where the gradient of what entered the pass is: in the place of what entered, or of the gradient above.
template <class T, int C>
static T *pass_back(const packed_pass *pass, const T *w, T *in, T *grad, T *own, T *sums, int64_t width,
                    bool need_below) {
    if (!pass->log_radix) {
        gradients_of_block<T, C>(pass, w, in, grad, sums, width, need_below);
        return in;
    }
    gradients_of_stages<T, C>(pass, w, in, grad, own, sums, width);
    return grad;
}

template <class S, class T, int C> struct backward_call {
    const km_chain *chain;
    const packed_chain *head;
    backward_scratch plan;
    km_matrix grad, x, grad_x;
    int64_t batch;

    int64_t width() const { return int64_t(plan.vectors) * simd<T>::lanes; }
    const T *weights(const packed_pass *pass) const {
        return (const T *)((const char *)head + head->weights) + pass->offset;
    }

    void tile(int64_t start, int64_t count, T *scratch) const {
        const int64_t line = C * width();
        const packed_pass *last = head->passes + head->n_passes - 1;
        T *in = scratch + plan.kept, *above = scratch + plan.grad, *columns = scratch + plan.columns;
        load_features<S, T, C>(chain, plan.vectors, x, start, count, in, columns);
        for (const packed_pass *pass = head->passes; pass != last; pass++) {
            T *out = in + pass->features_in * line;
            pass_forward<T, C>(pass, weights(pass), in, out, width());
            in = out;
        }
        load_grad<S, T, C>(chain, plan.vectors, grad, start, count, above, columns);
        T *sums = scratch + plan.sums + plan.n_sums;
        for (const packed_pass *pass = last;; pass--) {
            const bool need_below = pass != head->passes || grad_x.data;
            sums -= sums_of_pass<T, C>(pass);
            above = pass_back<T, C>(pass, weights(pass), in, above, scratch + plan.own, sums, width(), need_below);
            if (pass == head->passes) break;
            in -= (pass - 1)->features_in * line;
        }
        if (grad_x.data) store_grad<S, T, C>(chain, plan.vectors, grad_x, start, count, above, columns);
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
static void unpack_gradients(const km_chain *chain, const packed_chain *head, const T *sums,
                             void *const *grad_weights) {
    for (int p = 0; p < head->n_passes; p++) {
        const packed_pass *pass = head->passes + p;
        if (!pass->log_radix) {
            unpack_block<T, C>(chain->factors + pass->first, pass, sums, (T *)grad_weights[pass->first]);
        } else {
            unpack_stages<T, C>(chain, pass, sums, grad_weights);
        }
        sums += sums_of_pass<T, C>(pass);
    }
}

template <class S, class T, int C>
static void backward_tiles(const km_chain *chain, const packed_chain *head, km_matrix grad, km_matrix x,
                           km_matrix grad_x, void *const *grad_weights, int64_t batch, T *scratch, int32_t threads) {
    const backward_scratch plan = plan_backward<T, C>(chain, batch, threads);
    const backward_call<S, T, C> call = {chain, head, plan, grad, x, grad_x, batch};
    const int64_t tiles = (batch + call.width() - 1) / call.width(), workers = tiles < threads ? tiles : threads;
    if (workers <= 1) {
        call.work(0, 1, scratch);
    } else {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
        for (int64_t i = 0; i < workers; i++) call.work(i, workers, scratch + i * plan.end);
        for (int64_t i = 1; i < workers; i++)
            add_line(scratch + plan.sums, scratch + i * plan.end + plan.sums, plan.n_sums);
    }
    unpack_gradients<T, C>(chain, head, scratch + plan.sums, grad_weights);
}

#endif
