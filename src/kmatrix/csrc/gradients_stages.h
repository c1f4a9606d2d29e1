// Gradients of a pass of 2x2 factors: the features of one group of the pass go through its stages once more, from the
// input that was kept, then back through them in steps of one or two stages whose weights' gradients stay in registers.
#ifndef KMATRIX_GRADIENTS_STAGES_H
#define KMATRIX_GRADIENTS_STAGES_H

#include "gradients_steps.h"
#include "lane_sums.h"
#include "passes.h"

// sum += g * conj(x)
template <class T, int C> KM_INLINE void add_product(const vec<T> *g, const vec<T> *x, vec<T> *sum) {
    sum[0] += g[0] * x[0];
    if constexpr (C == 2) {
        sum[1] += g[1] * x[0];
        sum[0] += g[1] * x[1];
        sum[1] -= g[0] * x[1];
    }
}

// out = conj(p)*x + conj(q)*y
template <class T, int C>
KM_INLINE void combine_back(const T *p, const vec<T> *x, const T *q, const vec<T> *y, vec<T> *out) {
    if constexpr (C == 1) {
        out[0] = p[0] * x[0] + q[0] * y[0];
    } else {
        out[0] = p[0] * x[0] + p[1] * x[1] + q[0] * y[0] + q[1] * y[1];
        out[1] = p[0] * x[1] - p[1] * x[0] + q[0] * y[1] - q[1] * y[0];
    }
}

// One 2x2 block with input (x, y): adds to the gradients of its weights, replaces those of its output by its input's.
template <class T, int C>
KM_INLINE void butterfly_back(const T *w, const vec<T> *x, const vec<T> *y, vec<T> *g, vec<T> *h, vec<T> *sum) {
    add_product<T, C>(g, x, sum);
    add_product<T, C>(g, y, sum + C);
    add_product<T, C>(h, x, sum + 2 * C);
    add_product<T, C>(h, y, sum + 3 * C);
    vec<T> low[C], high[C];
    combine_back<T, C>(w, g, w + 2 * C, h, low);
    combine_back<T, C>(w + C, g, w + 3 * C, h, high);
    for (int p = 0; p < C; p++) g[p] = low[p], h[p] = high[p];
}

template <class T, int C> KM_INLINE void load_feature(const T *line, int64_t width, vec<T> *x) {
    for (int p = 0; p < C; p++) x[p] = load(line + p * width);
}
template <class T, int C> KM_INLINE void store_feature(T *line, int64_t width, const vec<T> *x) {
    for (int p = 0; p < C; p++) store(line + p * width, x[p]);
}

// Adds to the sums of a step's weights, and turns gradients of what leaves it (`above`) into those of what enters.
template <class T, int C>
KM_INLINE void one_stage_back(const placed_step &step, const T *w, lines<const T> in, lines<const T> above,
                              lines<T> below, T *sums, int64_t width) {
    constexpr int at_once = pairs_at_once<T, C>(), numbers = at_once * 4 * C;
    const int64_t next_in = step.low[in.place], next_above = step.low[above.place], next_below = step.low[below.place];
    for (int n = 0; n < step.n_units; sums += numbers) {
        vec<T> sum[numbers] = {};
#pragma GCC unroll 4
        for (int i = 0; i < at_once; i++, n++) {
            if (n >= step.n_units) break;
            const unit_back &unit = step.units[n];
            const T *x_line = in.data + unit.first[in.place], *g_line = above.data + unit.first[above.place];
            T *to = below.data + unit.first[below.place];
            for (int64_t r = 0; r < width; r += simd<T>::lanes) {
                vec<T> x[C], y[C], g[C], h[C];
                load_feature<T, C>(x_line + r, width, x);
                load_feature<T, C>(x_line + next_in + r, width, y);
                load_feature<T, C>(g_line + r, width, g);
                load_feature<T, C>(g_line + next_above + r, width, h);
                butterfly_back<T, C>(w + unit.weights[0], x, y, g, h, sum + i * 4 * C);
                store_feature<T, C>(to + r, width, g);
                store_feature<T, C>(to + next_below + r, width, h);
            }
        }
        add_lane_sums<T, numbers>(sum, sums);
    }
}

template <class T> KM_INLINE void load_four(const T *line, int64_t low, int64_t high, vec<T> *x) {
    x[0] = load(line);
    x[1] = load(line + low);
    x[2] = load(line + high);
    x[3] = load(line + high + low);
}
template <class T> KM_INLINE void store_four(T *line, int64_t low, int64_t high, const vec<T> *x) {
    store(line, x[0]);
    store(line + low, x[1]);
    store(line + high, x[2]);
    store(line + high + low, x[3]);
}

// Two stages on four features; what enters the second is computed again.
template <class T>
KM_INLINE void two_stages_back(const placed_step &step, const T *w, lines<const T> in, lines<const T> above,
                               lines<T> below, T *sums, int64_t width) {
    const int64_t in_low = step.low[in.place], in_high = step.high[in.place];
    const int64_t above_low = step.low[above.place], above_high = step.high[above.place];
    const int64_t below_low = step.low[below.place], below_high = step.high[below.place];
    for (int n = 0; n < step.n_units; n++, sums += 16) {
        const unit_back &unit = step.units[n];
        const T *w01 = w + unit.weights[0], *w23 = w + unit.weights[1];
        const T *w02 = w + unit.weights[2], *w13 = w + unit.weights[3];
        const T *x_line = in.data + unit.first[in.place], *g_line = above.data + unit.first[above.place];
        T *to = below.data + unit.first[below.place];
        vec<T> sum[16] = {};
        for (int64_t r = 0; r < width; r += simd<T>::lanes) {
            vec<T> x[4], y[4], g[4];
            load_four(x_line + r, in_low, in_high, x);
            for (int i = 0; i < 4; i++) y[i] = x[i];
            butterfly<T, 1, GENERAL>(w01, y, y + 1);
            butterfly<T, 1, GENERAL>(w23, y + 2, y + 3);
            load_four(g_line + r, above_low, above_high, g);
            butterfly_back<T, 1>(w02, y, y + 2, g, g + 2, sum + 8);
            butterfly_back<T, 1>(w13, y + 1, y + 3, g + 1, g + 3, sum + 12);
            butterfly_back<T, 1>(w01, x, x + 1, g, g + 1, sum);
            butterfly_back<T, 1>(w23, x + 2, x + 3, g + 2, g + 3, sum + 4);
            store_four(to + r, below_low, below_high, g);
        }
        add_lane_sums<T, 16>(sum, sums);
    }
}

// All four numbers of every block, whatever form the packed weights of the group have.
template <class T, int C> static void write_out_weights(const packed_pass *pass, const T *w, T *to) {
    for (int s = 0; s < pass->count; s++)
        for (int pair = 0; pair < 1 << (pass->log_radix - 1); pair++, to += 4 * C) {
            const int form = pass->form[s];
            for (int p = 0; p < C; p++) {
                const T one = p ? T(0) : T(1), value = form == PLUS_MINUS ? one : w[p];
                to[p] = form == GENERAL ? value : one;
                to[C + p] = form == GENERAL ? w[C + p] : form == TWIST_IN ? value : one;
                to[2 * C + p] = form == GENERAL ? w[2 * C + p] : form == TWIST_OUT ? value : one;
                to[3 * C + p] = form == GENERAL ? w[3 * C + p] : -value;
            }
            w += weights_of(form) * C;
        }
}

// One 2x2 block whose weights are in registers, in place.
template <class T, int C> struct block_in_registers {
    vec<T> w[4 * C];

    KM_INLINE explicit block_in_registers(const T *numbers) {
        for (int i = 0; i < 4 * C; i++) w[i] = splat(numbers[i]);
    }
    KM_INLINE void operator()(vec<T> *x, vec<T> *y) const {
        vec<T> low[C], high[C];
        product(w, x, y, low);
        product(w + 2 * C, x, y, high);
        for (int p = 0; p < C; p++) x[p] = low[p], y[p] = high[p];
    }

  private:
    static KM_INLINE void product(const vec<T> *w, const vec<T> *x, const vec<T> *y, vec<T> *out) {
        if constexpr (C == 1) {
            out[0] = w[0] * x[0] + w[1] * y[0];
        } else {
            out[0] = w[0] * x[0] - w[1] * x[1] + w[2] * y[0] - w[3] * y[1];
            out[1] = w[0] * x[1] + w[1] * x[0] + w[2] * y[1] + w[3] * y[0];
        }
    }
};

// What leaves a step, from what enters it.
template <class T, int C>
KM_INLINE void one_stage_forward(const placed_step &step, const T *w, lines<const T> in, lines<T> out, int64_t width) {
    const int64_t next_in = step.low[in.place], next_out = step.low[out.place];
    for (int n = 0; n < step.n_units; n++) {
        const unit_back &unit = step.units[n];
        const block_in_registers<T, C> block(w + unit.weights[0]);
        const T *from = in.data + unit.first[in.place];
        T *to = out.data + unit.first[out.place];
        for (int64_t r = 0; r < width; r += simd<T>::lanes) {
            vec<T> x[C], y[C];
            load_feature<T, C>(from + r, width, x);
            load_feature<T, C>(from + next_in + r, width, y);
            block(x, y);
            store_feature<T, C>(to + r, width, x);
            store_feature<T, C>(to + next_out + r, width, y);
        }
    }
}

template <class T>
KM_INLINE void two_stages_forward(const placed_step &step, const T *w, lines<const T> in, lines<T> out, int64_t width) {
    for (int n = 0; n < step.n_units; n++) {
        const unit_back &unit = step.units[n];
        const block_in_registers<T, 1> b01(w + unit.weights[0]), b23(w + unit.weights[1]);
        const block_in_registers<T, 1> b02(w + unit.weights[2]), b13(w + unit.weights[3]);
        const T *from = in.data + unit.first[in.place];
        T *to = out.data + unit.first[out.place];
        for (int64_t r = 0; r < width; r += simd<T>::lanes) {
            vec<T> x[4];
            load_four(from + r, step.low[in.place], step.high[in.place], x);
            b01(x, x + 1);
            b23(x + 2, x + 3);
            b02(x, x + 2);
            b13(x + 1, x + 3);
            store_four(to + r, step.low[out.place], step.high[out.place], x);
        }
    }
}

// One group of a pass on its way back: the inputs of all steps but the first are computed again and kept.
template <class T, int C> struct group_back {
    T *own;  // the gradient between two steps, then what enters every step but the first
    int64_t width, room;
    int64_t n_steps, group_sums;
    placed_step steps[max_stages];

    group_back(const packed_pass *pass, T *start, int64_t rows) : own(start), width(rows) {
        step_back plan[max_stages];
        n_steps = steps_of<C>(pass, plan);
        room = C * width << pass->log_radix;
        group_sums = 0;
        for (int64_t n = 0; n < n_steps; n++) {
            steps[n] = place_step<T, C>(pass, plan[n], C * width);
            steps[n].sums = group_sums;
            group_sums += sums_of_step<T, C>(plan[n].stages, pass->log_radix);
        }
    }

    lines<T> kept(int64_t step) const { return {own + step * room, IN_ROOM}; }
    static lines<const T> read(lines<T> of) { return {of.data, of.place}; }

    KM_INLINE void forward(const T *w, lines<const T> in) const {
        for (int64_t n = 0; n + 1 < n_steps; n++) {
            const placed_step &step = steps[n];
            const lines<const T> from = n ? read(kept(n)) : in;
            if constexpr (stages_together<C>() == 2)
                if (step.stages == 2) {
                    two_stages_forward<T>(step, w + step.weights, from, kept(n + 1), width);
                    continue;
                }
            one_stage_forward<T, C>(step, w + step.weights, from, kept(n + 1), width);
        }
    }

    KM_INLINE void back(const T *w, lines<const T> in, lines<T> grad, T *sums) const {
        for (int64_t n = n_steps - 1; n >= 0; n--) {
            const placed_step &step = steps[n];
            const lines<const T> from = n ? read(kept(n)) : in, above = read(n + 1 < n_steps ? kept(0) : grad);
            const lines<T> below = n ? kept(0) : grad;
            if constexpr (stages_together<C>() == 2)
                if (step.stages == 2) {
                    two_stages_back<T>(step, w + step.weights, from, above, below, sums + step.sums, width);
                    continue;
                }
            one_stage_back<T, C>(step, w + step.weights, from, above, below, sums + step.sums, width);
        }
    }
};

// `in` is what entered the pass, `grad` the gradient of what left it, which becomes that of what entered; `own` has
// room for the features of a group once for each step.
template <class T, int C>
static void gradients_of_stages(const packed_pass *pass, const T *w, const T *in, T *grad, T *own, T *sums,
                                int64_t width) {
    const group_back<T, C> group(pass, own, width);
    const int64_t line = C * width, span = pass->d * line << pass->log_radix;
    alignas(64) T written_out[max_stages * (2 << max_log_radix) * C];
    bool general = true;
    for (int s = 0; s < pass->count; s++) general = general && pass->form[s] == GENERAL;
    for (int64_t o = 0; o < pass->a; o++)
        for (int64_t e = 0; e < pass->d; e++, w += pass->group * C, sums += group.group_sums) {
            const int64_t first = o * span + e * line;
            if (!general) write_out_weights<T, C>(pass, w, written_out);
            const T *numbers = general ? w : written_out;
            group.forward(numbers, {in + first, IN_TILE});
            group.back(numbers, {in + first, IN_TILE}, {grad + first, IN_TILE}, sums);
        }
}

#endif
