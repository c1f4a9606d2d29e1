// Gradients of a pass of 2x2 factors: the features of one group of the pass go through its stages once more, from the
// input that was kept, then back through them in steps of one or two stages whose weights' gradients stay in registers.
#ifndef KMATRIX_GRADIENTS_STAGES_H
#define KMATRIX_GRADIENTS_STAGES_H

#include "lane_sums.h"
#include "passes.h"

// Two stages on four features need 16 accumulators, 12 features and gradients: only large register files hold them.
template <int C> KM_INLINE constexpr int stages_together() { return C == 1 && KM_VECTOR_BYTES == 64 ? 2 : 1; }

// One or two consecutive stages of a pass. Where there are two, they pair features at different distances.
struct step_back {
    int first, stages;
    int low, high;  // bits of the number of a feature that the stages pair; equal where there is one stage
};

// The steps of a pass in order of application; returns how many. A single stage comes first: then least is computed
// again.
template <int C> static int steps_of(const packed_pass *pass, step_back *steps) {
    int n = 0;
    for (int end = pass->count; end > 0; n++) {
        const int s = end - 1;
        const bool two = stages_together<C>() == 2 && s > 0 && pass->shift[s] != pass->shift[s - 1];
        steps[n] = {two ? s - 1 : s, two ? 2 : 1, two ? pass->shift[s - 1] : pass->shift[s], pass->shift[s]};
        end -= steps[n].stages;
    }
    for (int i = 0; i < n / 2; i++) {
        const step_back other = steps[i];
        steps[i] = steps[n - 1 - i];
        steps[n - 1 - i] = other;
    }
    return n;
}

// Numbers whose sums over the lanes are formed together, and how many 2x2 blocks of one stage they belong to.
template <class T, int C> KM_INLINE constexpr int pairs_at_once() {
    return simd<T>::lanes > 4 * C ? simd<T>::lanes / (4 * C) : 1;
}
template <class T, int C> KM_INLINE constexpr int sums_of_step(int stages, int log_radix) {
    if (stages == 2) return 16 << (log_radix - 2);
    constexpr int at_once = pairs_at_once<T, C>();
    const int pairs = 1 << (log_radix - 1);
    return (pairs < at_once ? at_once : pairs) * 4 * C;
}

// Gradients of the weights that one group of a pass holds.
template <class T, int C> static int64_t sums_of_group(const packed_pass *pass) {
    step_back steps[max_stages];
    const int n = steps_of<C>(pass, steps);
    int64_t all = 0;
    for (int i = 0; i < n; i++) all += sums_of_step<T, C>(steps[i].stages, pass->log_radix);
    return all;
}

// The number without bit `bit`: which 2x2 block of a stage a feature belongs to.
KM_INLINE int pair_of(int feature, int bit) {
    return (feature & ((1 << bit) - 1)) | (feature >> (bit + 1)) << bit;
}
// The number with a zero put in at `bit`: the first feature of a 2x2 block.
KM_INLINE int feature_of(int pair, int bit) { return (pair & ((1 << bit) - 1)) | (pair >> bit) << (bit + 1); }
// The first of the four features that differ in bits `low` and `high`, counted by the other bits.
KM_INLINE int first_of_four(int quad, int low, int high) {
    return low < high ? feature_of(feature_of(quad, low), high) : feature_of(feature_of(quad, high), low);
}

// Four features on which two stages work, and where the weights of their four blocks are: those of the first stage,
// which pairs bit `low`, come first, then those of the second.
struct four_features {
    int64_t feature[4], w01, w23, w02, w13;

    KM_INLINE four_features(int quad, int low, int high, int pairs) {
        const int first = first_of_four(quad, low, high);
        feature[0] = first, feature[1] = first | 1 << low;
        feature[2] = first | 1 << high, feature[3] = first | 1 << low | 1 << high;
        w01 = 4 * pair_of(first, low), w23 = 4 * pair_of(first | 1 << high, low);
        w02 = 4 * (pairs + pair_of(first, high)), w13 = 4 * (pairs + pair_of(first | 1 << low, high));
    }
};

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

// Lines of features: feature i at data + i*step, its imaginary part `width` further.
template <class T> struct lines {
    T *data;
    int64_t step;
};

template <class T, int C> KM_INLINE void load_feature(const T *line, int64_t width, vec<T> *x) {
    for (int p = 0; p < C; p++) x[p] = load(line + p * width);
}
template <class T, int C> KM_INLINE void store_feature(T *line, int64_t width, const vec<T> *x) {
    for (int p = 0; p < C; p++) store(line + p * width, x[p]);
}

template <class T, int C>
KM_INLINE void one_stage_back(int log_radix, int bit, const T *w, lines<const T> in, lines<const T> above,
                              lines<T> below, T *sums, int64_t width) {
    constexpr int at_once = pairs_at_once<T, C>(), numbers = at_once * 4 * C;
    const int pairs = 1 << (log_radix - 1);
    for (int pair = 0; pair < pairs; sums += numbers) {
        vec<T> sum[numbers] = {};
#pragma GCC unroll 4
        for (int i = 0; i < at_once; i++, pair++) {
            if (pair >= pairs) break;
            const int64_t low = feature_of(pair, bit), high = low | 1 << bit;
            for (int64_t r = 0; r < width; r += simd<T>::lanes) {
                vec<T> x[C], y[C], g[C], h[C];
                load_feature<T, C>(in.data + low * in.step + r, width, x);
                load_feature<T, C>(in.data + high * in.step + r, width, y);
                load_feature<T, C>(above.data + low * above.step + r, width, g);
                load_feature<T, C>(above.data + high * above.step + r, width, h);
                butterfly_back<T, C>(w + pair * 4 * C, x, y, g, h, sum + i * 4 * C);
                store_feature<T, C>(below.data + low * below.step + r, width, g);
                store_feature<T, C>(below.data + high * below.step + r, width, h);
            }
        }
        add_lane_sums<T, numbers>(sum, sums);
    }
}

// Two stages on the four features that differ in bits `low` (paired first) and `high`.
template <class T>
KM_INLINE void two_stages_back(int log_radix, int low, int high, const T *w, lines<const T> in, lines<const T> above,
                               lines<T> below, T *sums, int64_t width) {
    const int pairs = 1 << (log_radix - 1);
    for (int quad = 0; quad < pairs / 2; quad++, sums += 16) {
        const four_features at(quad, low, high, pairs);
        const T *w01 = w + at.w01, *w23 = w + at.w23, *w02 = w + at.w02, *w13 = w + at.w13;
        vec<T> sum[16] = {};
        for (int64_t r = 0; r < width; r += simd<T>::lanes) {
            vec<T> x[4], y[4], g[4];
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) x[i] = y[i] = load(in.data + at.feature[i] * in.step + r);
            butterfly<T, 1, GENERAL>(w01, y, y + 1);
            butterfly<T, 1, GENERAL>(w23, y + 2, y + 3);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) g[i] = load(above.data + at.feature[i] * above.step + r);
            butterfly_back<T, 1>(w02, y, y + 2, g, g + 2, sum + 8);
            butterfly_back<T, 1>(w13, y + 1, y + 3, g + 1, g + 3, sum + 12);
            butterfly_back<T, 1>(w01, x, x + 1, g, g + 1, sum);
            butterfly_back<T, 1>(w23, x + 2, x + 3, g + 2, g + 3, sum + 4);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) store(below.data + at.feature[i] * below.step + r, g[i]);
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

// What leaves one stage of a group, from what enters it.
template <class T, int C>
KM_INLINE void one_stage_forward(int log_radix, int bit, const T *w, lines<const T> in, lines<T> out, int64_t width) {
    for (int pair = 0; pair < 1 << (log_radix - 1); pair++, w += 4 * C) {
        const int64_t low = feature_of(pair, bit), high = low | 1 << bit;
        const block_in_registers<T, C> block(w);
        for (int64_t r = 0; r < width; r += simd<T>::lanes) {
            vec<T> x[C], y[C];
            load_feature<T, C>(in.data + low * in.step + r, width, x);
            load_feature<T, C>(in.data + high * in.step + r, width, y);
            block(x, y);
            store_feature<T, C>(out.data + low * out.step + r, width, x);
            store_feature<T, C>(out.data + high * out.step + r, width, y);
        }
    }
}

template <class T>
KM_INLINE void two_stages_forward(int log_radix, int low, int high, const T *w, lines<const T> in, lines<T> out,
                                  int64_t width) {
    const int pairs = 1 << (log_radix - 1);
    for (int quad = 0; quad < pairs / 2; quad++) {
        const four_features at(quad, low, high, pairs);
        const block_in_registers<T, 1> b01(w + at.w01), b23(w + at.w23), b02(w + at.w02), b13(w + at.w13);
        for (int64_t r = 0; r < width; r += simd<T>::lanes) {
            vec<T> x[4];
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) x[i] = load(in.data + at.feature[i] * in.step + r);
            b01(x, x + 1);
            b23(x + 2, x + 3);
            b02(x, x + 2);
            b13(x + 1, x + 3);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) store(out.data + at.feature[i] * out.step + r, x[i]);
        }
    }
}

// One group of a pass on its way back: the inputs of all steps but the first are computed again and kept.
template <class T, int C> struct group_back {
    const packed_pass *pass;
    T *own;  // the gradient between two steps, then what enters every step but the first
    int64_t width;
    int64_t n_steps, group_sums;
    step_back steps[max_stages];

    group_back(const packed_pass *of, T *room, int64_t rows) : pass(of), own(room), width(rows) {
        n_steps = steps_of<C>(pass, steps);
        group_sums = sums_of_group<T, C>(pass);
    }

    int64_t line() const { return C * width; }
    lines<T> kept(int64_t step) const { return {own + (step << pass->log_radix) * line(), line()}; }
    static lines<const T> read(lines<T> of) { return {of.data, of.step}; }
    const T *weights(const T *w, const step_back &step) const { return w + (step.first * 2 * C << pass->log_radix); }

    KM_INLINE void forward(const T *w, lines<const T> in) const {
        for (int64_t n = 0; n + 1 < n_steps; n++) {
            const step_back &step = steps[n];
            const lines<const T> from = n ? read(kept(n)) : in;
            if constexpr (stages_together<C>() == 2)
                if (step.stages == 2) {
                    two_stages_forward<T>(pass->log_radix, step.low, step.high, weights(w, step), from, kept(n + 1), width);
                    continue;
                }
            one_stage_forward<T, C>(pass->log_radix, step.low, weights(w, step), from, kept(n + 1), width);
        }
    }

    KM_INLINE void back(const T *w, lines<const T> in, lines<T> grad, T *sums) const {
        sums += group_sums;
        for (int64_t n = n_steps - 1; n >= 0; n--) {
            const step_back &step = steps[n];
            const lines<const T> from = n ? read(kept(n)) : in, above = read(n + 1 < n_steps ? kept(0) : grad);
            const lines<T> below = n ? kept(0) : grad;
            sums -= sums_of_step<T, C>(step.stages, pass->log_radix);
            if constexpr (stages_together<C>() == 2)
                if (step.stages == 2) {
                    two_stages_back<T>(pass->log_radix, step.low, step.high, weights(w, step), from, above, below, sums,
                                       width);
                    continue;
                }
            one_stage_back<T, C>(pass->log_radix, step.low, weights(w, step), from, above, below, sums, width);
        }
    }
};

// `in` is what entered the pass, `grad` the gradient of what left it, which becomes that of what entered; `own` has
// room for the features of a group once for each step.
template <class T, int C>
static void gradients_of_stages(const packed_pass *pass, const T *w, const T *in, T *grad, T *own, T *sums,
                                int64_t width) {
    const group_back<T, C> group(pass, own, width);
    const int64_t line = C * width, distance = pass->d * line;
    alignas(64) T written_out[max_stages * (2 << max_log_radix) * C];
    bool general = true;
    for (int s = 0; s < pass->count; s++) general = general && pass->form[s] == GENERAL;
    for (int64_t o = 0; o < pass->a; o++)
        for (int64_t e = 0; e < pass->d; e++, w += pass->group * C, sums += group.group_sums) {
            const int64_t first = (o * distance << pass->log_radix) + e * line;
            if (!general) write_out_weights<T, C>(pass, w, written_out);
            const T *numbers = general ? w : written_out;
            group.forward(numbers, {in + first, distance});
            group.back(numbers, {in + first, distance}, {grad + first, distance}, sums);
        }
}

// ---- the sums, where the caller wants them ----

// The 2x2 blocks of a group in the order of their sums: where each belongs among the gradients of its factor, counted
// from where those of the group start.
struct sum_places {
    int count;
    struct {
        int stage;
        int64_t sums, to;
    } block[max_stages << (max_log_radix - 1)];
};

template <class T, int C>
static void list_sums(const km_chain *chain, const packed_pass *pass, sum_places *places) {
    step_back steps[max_stages];
    const int n_steps = steps_of<C>(pass, steps), pairs = 1 << (pass->log_radix - 1);
    int64_t sums = 0;
    places->count = 0;
    const auto add = [&](int s, int pair, int64_t at) {
        const km_factor *f = chain->factors + pass->first + s;
        const int64_t diagonals = f->sd ? f->d : 1, k = (pair & ((1 << pass->shift[s]) - 1)) * pass->d;
        const int64_t g = pair >> pass->shift[s];
        places->block[places->count++] = {s, at, (f->sa ? g * 4 * diagonals : 0) + (f->sd ? k : 0)};
    };
    for (int n = 0; n < n_steps; n++) {
        const step_back step = steps[n];
        const int s = step.first, low = step.low, high = step.high;
        for (int pair = 0; step.stages == 1 && pair < pairs; pair++) add(s, pair, sums + pair * 4 * C);
        for (int quad = 0; step.stages == 2 && quad < pairs / 2; quad++) {
            const int first = first_of_four(quad, low, high);
            add(s, pair_of(first, low), sums + quad * 16);
            add(s, pair_of(first | 1 << high, low), sums + quad * 16 + 4);
            add(s + 1, pair_of(first, high), sums + quad * 16 + 8);
            add(s + 1, pair_of(first | 1 << low, high), sums + quad * 16 + 12);
        }
        sums += sums_of_step<T, C>(step.stages, pass->log_radix);
    }
}

// The gradients of an untied factor: every sum has a place of its own.
template <class T, int C>
KM_INLINE void put_sums(const packed_pass *pass, const km_factor *f, int64_t in_group, const T *sums, int64_t group,
                        T *to) {
    for (int64_t o = 0; o < pass->a; o++, to += in_group * 4 * f->d * C)
        for (int64_t e = 0; e < pass->d; e++, sums += group)
            for (int q = 0; q < 4; q++)
                for (int p = 0; p < C; p++) to[(q * f->d + e) * C + p] = sums[q * C + p];
}

// Those of a factor tied over a or d: many sums for one place, added in double precision.
template <class T, int C>
static void add_tied_sums(const packed_pass *pass, const km_factor *f, int64_t in_group, const T *sums, int64_t group,
                          T *to) {
    const int64_t diagonals = f->sd ? f->d : 1;
    const int64_t places_a = f->sa ? pass->a : 1, places_d = f->sd ? pass->d : 1;
    for (int64_t o = 0; o < places_a; o++)
        for (int64_t e = 0; e < places_d; e++) {
            double sum[4 * C] = {};
            for (int64_t i = o; i < pass->a; i += places_a)
                for (int64_t j = e; j < pass->d; j += places_d)
                    for (int q = 0; q < 4 * C; q++) sum[q] += sums[(i * pass->d + j) * group + q];
            T *at = to + (o * in_group * 4 * diagonals + e) * C;
            for (int q = 0; q < 4; q++)
                for (int p = 0; p < C; p++) at[q * diagonals * C + p] += T(sum[q * C + p]);
        }
}

template <class T, int C>
static void unpack_stages(const km_chain *chain, const packed_pass *pass, const T *sums, void *const *grad_weights) {
    sum_places places;
    list_sums<T, C>(chain, pass, &places);
    const int64_t group = sums_of_group<T, C>(pass);
    const auto tied = [](const km_factor *f) { return (f->a > 1 && !f->sa) || (f->d > 1 && !f->sd); };
    for (int i = pass->first; i < pass->first + pass->count; i++) {
        const km_factor *f = chain->factors + i;
        const int64_t numbers = (f->sa ? f->a : 1) * 4 * (f->sd ? f->d : 1) * C;
        if (tied(f)) __builtin_memset(grad_weights[i], 0, size_t(numbers) * sizeof(T));
    }
    for (int i = 0; i < places.count; i++) {
        const auto at = places.block[i];
        const int32_t factor = pass->first + at.stage;
        const km_factor *f = chain->factors + factor;
        const int64_t in_group = int64_t(1) << (pass->log_radix - 1 - pass->shift[at.stage]);
        T *to = (T *)grad_weights[factor] + at.to * C;
        if (tied(f)) add_tied_sums<T, C>(pass, f, in_group, sums + at.sums, group, to);
        else put_sums<T, C>(pass, f, in_group, sums + at.sums, group, to);
    }
}

#endif
