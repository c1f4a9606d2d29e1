// Vectors of one instruction set, and the number formats that become them.
//
// Everything here lives in the namespace of the translation unit that includes it (see variant.cpp): the same template
// compiled for two instruction sets must never share a name, or the linker keeps one of them for both.
#ifndef KMATRIX_SIMD_H
#define KMATRIX_SIMD_H

template <class T> struct simd;

template <> struct simd<float> {
    static constexpr int lanes = KM_VECTOR_BYTES / 4;
    typedef float vec __attribute__((vector_size(KM_VECTOR_BYTES)));
    typedef float anywhere __attribute__((vector_size(KM_VECTOR_BYTES), aligned(4), may_alias));
};

template <> struct simd<double> {
    static constexpr int lanes = KM_VECTOR_BYTES / 8;
    typedef double vec __attribute__((vector_size(KM_VECTOR_BYTES)));
    typedef double anywhere __attribute__((vector_size(KM_VECTOR_BYTES), aligned(8), may_alias));
};

template <class T> using vec = typename simd<T>::vec;

#define KM_INLINE inline __attribute__((always_inline))

struct bfloat16 {
    uint16_t bits;
};

struct float16 {
    uint16_t bits;
};

// ---- single numbers ----

KM_INLINE float bits_to_float(uint32_t bits) {
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}

KM_INLINE uint32_t float_to_bits(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    return bits;
}

KM_INLINE float widen(float value) { return value; }
KM_INLINE double widen(double value) { return value; }
KM_INLINE float widen(bfloat16 value) { return bits_to_float(uint32_t(value.bits) << 16); }

// Subnormal halves become exact by a multiplication, which spares the search for their leading bit.
KM_INLINE float widen(float16 value) {
    const uint32_t sign = uint32_t(value.bits & 0x8000) << 16, rest = value.bits & 0x7fff;
    if (rest >= 0x7c00) return bits_to_float(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    return bits_to_float(float_to_bits(bits_to_float(rest << 13) * 0x1p112f) | sign);
}

KM_INLINE void narrow(float value, float *out) { *out = value; }
KM_INLINE void narrow(double value, double *out) { *out = value; }

KM_INLINE void narrow(float value, bfloat16 *out) {
    const uint32_t bits = float_to_bits(value);
    const bool nan = (bits & 0x7fffffff) > 0x7f800000;
    out->bits = nan ? uint16_t(bits >> 16 | 0x40) : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Rounds to nearest even: by an addition that aligns the last bit where the half is subnormal, by integers elsewhere.
KM_INLINE void narrow(float value, float16 *out) {
    const uint32_t bits = float_to_bits(value), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    uint32_t half;
    if (rest > 0x7f800000) {
        half = 0x7e00 | (rest >> 13 & 0x3ff);
    } else if (rest >= 0x477ff000) {
        half = 0x7c00;
    } else if (rest < 0x38800000) {
        half = float_to_bits(bits_to_float(rest) + 0.5f) - 0x3f000000;
    } else {
        half = (rest + 0xfff + (rest >> 13 & 1) - 0x38000000) >> 13;
    }
    out->bits = uint16_t(sign | half);
}

// ---- vectors ----

template <class T> KM_INLINE vec<T> splat(T value) { return value - vec<T>{}; }

template <class T> KM_INLINE vec<T> load(const T *from) { return (vec<T>)*(const typename simd<T>::anywhere *)from; }
template <class T> KM_INLINE void store(T *to, vec<T> value) { *(typename simd<T>::anywhere *)to = value; }

// A pointer whose origin the optimiser does not see: it would keep one for each of many lines that are a step apart, and
// move them in and out of registers.
template <class P> KM_INLINE P *here(P *pointer) {
    __asm__("" : "+r"(pointer));
    return pointer;
}

// One vector of the arithmetic out of numbers of the storage type, and back.
KM_INLINE vec<float> load_wide(const float *from) { return load(from); }
KM_INLINE vec<double> load_wide(const double *from) { return load(from); }
KM_INLINE void store_narrow(float *to, vec<float> value) { store(to, value); }
KM_INLINE void store_narrow(double *to, vec<double> value) { store(to, value); }

typedef uint16_t halves __attribute__((vector_size(KM_VECTOR_BYTES / 2)));
typedef uint16_t halves_anywhere __attribute__((vector_size(KM_VECTOR_BYTES / 2), aligned(2), may_alias));
typedef uint32_t words __attribute__((vector_size(KM_VECTOR_BYTES)));
typedef int32_t flags __attribute__((vector_size(KM_VECTOR_BYTES)));

KM_INLINE vec<float> load_wide(const bfloat16 *from) {
    const halves bits = (halves)*(const halves_anywhere *)from;
    return (vec<float>)(__builtin_convertvector(bits, words) << 16);
}

KM_INLINE void store_narrow(bfloat16 *to, vec<float> value) {
    const words bits = (words)value;
    const words rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16, quiet = bits >> 16 | 0x40;
    const flags nan = (flags)(value != value);
    *(halves_anywhere *)to = __builtin_convertvector((words)(nan ? quiet : rounded), halves);
}

#if defined(__F16C__) && KM_VECTOR_BYTES == 64
KM_INLINE vec<float> load_wide(const float16 *from) {
    return (vec<float>)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
}
KM_INLINE void store_narrow(float16 *to, vec<float> value) {
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__F16C__) && KM_VECTOR_BYTES == 32
KM_INLINE vec<float> load_wide(const float16 *from) {
    return (vec<float>)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
}
KM_INLINE void store_narrow(float16 *to, vec<float> value) {
    _mm_storeu_si128((__m128i *)to, _mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT));
}
#else
KM_INLINE vec<float> load_wide(const float16 *from) {
    vec<float> value{};
    for (int lane = 0; lane < simd<float>::lanes; lane++) value[lane] = widen(from[lane]);
    return value;
}
KM_INLINE void store_narrow(float16 *to, vec<float> value) {
    for (int lane = 0; lane < simd<float>::lanes; lane++) narrow(value[lane], to + lane);
}
#endif

// ---- a square of numbers, turned over ----
//
// In two steps of shuffles that all processors have and none is slow at: whole 16-byte quarters change places across
// vectors, then numbers change places inside the quarters.

template <int... I> struct lane_list {};
template <int N, int... I> struct lanes_below : lanes_below<N - 1, N - 1, I...> {};
template <int... I> struct lanes_below<0, I...> {
    typedef lane_list<I...> type;
};
template <class T> using all_lanes = typename lanes_below<simd<T>::lanes>::type;

template <class T> constexpr int quarter = 16 / int(sizeof(T));            // numbers in 16 bytes
template <class T> constexpr int quarters = simd<T>::lanes / quarter<T>;   // of a vector

// Numbers `step` apart of the low (or high) halves of every quarter of x and y, interleaved.
template <int SIZE, int STEP, bool HIGH, class V, int... I> KM_INLINE V interleave(V x, V y, lane_list<I...>) {
    constexpr int lanes = sizeof...(I), half = SIZE / 2;
    return __builtin_shufflevector(
        x, y, ((I / STEP % 2 ? lanes : 0) + I / SIZE * SIZE + (HIGH ? half : 0) + I % SIZE / (2 * STEP) * STEP + I % STEP)...);
}

// Transposes the squares that the same quarter of `quarter` vectors makes.
template <class T> KM_INLINE void transpose_in_quarters(vec<T> *v) {
    typedef all_lanes<T> every;
    constexpr int q = quarter<T>;
    if constexpr (q == 2) {
        const vec<T> low = interleave<2, 1, false>(v[0], v[1], every{});
        v[1] = interleave<2, 1, true>(v[0], v[1], every{});
        v[0] = low;
    } else {
        const vec<T> a = interleave<4, 1, false>(v[0], v[1], every{}), b = interleave<4, 1, false>(v[2], v[3], every{});
        const vec<T> c = interleave<4, 1, true>(v[0], v[1], every{}), d = interleave<4, 1, true>(v[2], v[3], every{});
        v[0] = interleave<4, 2, false>(a, b, every{});
        v[1] = interleave<4, 2, true>(a, b, every{});
        v[2] = interleave<4, 2, false>(c, d, every{});
        v[3] = interleave<4, 2, true>(c, d, every{});
    }
}

// Quarters FIRST and SECOND of x, then the same of y.
template <int Q, int FIRST, int SECOND, class V, int... I> KM_INLINE V join(V x, V y, lane_list<I...>) {
    constexpr int lanes = sizeof...(I);
    return __builtin_shufflevector(
        x, y, ((I / Q / 2 ? lanes : 0) + (I / Q % 2 ? SECOND : FIRST) * Q + I % Q)...);
}

// Quarter WHICH of x, then that of y, of vectors of two.
template <int Q, int WHICH, class V, int... I> KM_INLINE V halves_of(V x, V y, lane_list<I...>) {
    constexpr int lanes = sizeof...(I);
    return __builtin_shufflevector(x, y, ((I / Q ? lanes : 0) + WHICH * Q + I % Q)...);
}

// Transposes the square of quarters that the vectors v[0], v[step], v[2 step], ... make.
template <class T> KM_INLINE void transpose_quarters(vec<T> *v, int step) {
    typedef all_lanes<T> every;
    constexpr int q = quarter<T>;
    if constexpr (quarters<T> == 2) {
        const vec<T> low = halves_of<q, 0>(v[0], v[step], every{});
        v[step] = halves_of<q, 1>(v[0], v[step], every{});
        v[0] = low;
    } else if constexpr (quarters<T> == 4) {
        const vec<T> a = join<q, 0, 1>(v[0], v[step], every{}), b = join<q, 2, 3>(v[0], v[step], every{});
        const vec<T> c = join<q, 0, 1>(v[2 * step], v[3 * step], every{}), d = join<q, 2, 3>(v[2 * step], v[3 * step], every{});
        v[0] = join<q, 0, 2>(a, c, every{});
        v[step] = join<q, 1, 3>(a, c, every{});
        v[2 * step] = join<q, 0, 2>(b, d, every{});
        v[3 * step] = join<q, 1, 3>(b, d, every{});
    }
}

// Transposes lanes x lanes numbers held as one vector a row.
template <class T> KM_INLINE void transpose(vec<T> *rows) {
    constexpr int q = quarter<T>;
#pragma GCC unroll 4
    for (int i = 0; i < q; i++) transpose_quarters<T>(rows + i, q);
#pragma GCC unroll 4
    for (int i = 0; i < quarters<T>; i++) transpose_in_quarters<T>(rows + i * q);
}

#endif
