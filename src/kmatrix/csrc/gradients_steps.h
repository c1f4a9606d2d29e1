// How the stages of a pass of 2x2 factors are taken together on the way back, and where the features, weights and
// sums of each such step lie.
#ifndef KMATRIX_GRADIENTS_STEPS_H
#define KMATRIX_GRADIENTS_STEPS_H

#include "packing.h"

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

// Where features lie: in the tile, `distance` apart, or side by side in the room of one group.
enum place_of_lines { IN_TILE, IN_ROOM };

template <class T> struct lines {
    T *data;
    place_of_lines place;
};

// The two features that one stage pairs, or the four that two stages do: where the first of them lies in either place,
// and where the weights of their blocks are (of the stage that pairs bit `low`, then of the other).
struct unit_back {
    int64_t first[2];
    int32_t weights[4];
};

// A step with its units; features differ by low[place] and high[place].
struct placed_step {
    int32_t stages, n_units;
    int64_t weights, sums;  // where those of the step start in the group
    int64_t low[2], high[2];
    unit_back units[1 << (max_log_radix - 1)];
};

template <class T, int C>
static placed_step place_step(const packed_pass *pass, const step_back &step, int64_t line) {
    const int pairs = 1 << (pass->log_radix - 1), low = step.low, high = step.high;
    const int64_t apart[2] = {pass->d * line, line};
    placed_step placed = {};
    placed.stages = step.stages;
    placed.n_units = step.stages == 2 ? pairs / 2 : pairs;
    placed.weights = int64_t(step.first) * pairs * 4 * C;
    for (int i = 0; i < 2; i++) placed.low[i] = apart[i] << low, placed.high[i] = apart[i] << high;
    for (int n = 0; n < placed.n_units; n++) {
        const int first = step.stages == 2 ? first_of_four(n, low, high) : feature_of(n, low);
        unit_back *unit = placed.units + n;
        for (int i = 0; i < 2; i++) unit->first[i] = first * apart[i];
        unit->weights[0] = 4 * C * pair_of(first, low);
        if (step.stages == 1) continue;
        unit->weights[1] = 4 * C * pair_of(first | 1 << high, low);
        unit->weights[2] = 4 * C * (pairs + pair_of(first, high));
        unit->weights[3] = 4 * C * (pairs + pair_of(first | 1 << low, high));
    }
    return placed;
}

#endif
