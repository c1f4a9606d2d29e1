// The kernels of one instruction set. CMake compiles this file several times, each time with KM_ISA naming the set and
// flags that allow it; the namespace keeps the copies apart (identical names would be merged by the linker).
#include <cstddef>
#include <cstdint>

#if defined(__F16C__)
#include <immintrin.h>
#endif
#include <omp.h>

#include "kmatrix.h"

#if defined(__AVX512F__)
#define KM_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define KM_VECTOR_BYTES 32
#else
#define KM_VECTOR_BYTES 16
#endif

#define KM_JOIN_(a, b) a##b
#define KM_JOIN(a, b) KM_JOIN_(a, b)
#define KM_TEXT_(a) #a
#define KM_TEXT(a) KM_TEXT_(a)

namespace KM_JOIN(km_, KM_ISA) {

#include "packing.h"
#include "passes.h"
#include "rows.h"
#include "segments_rows.h"
#include "segments_tile.h"
#include "simd.h"
#include "tile_backward.h"
#include "tile_forward.h"
#include "tile_io.h"
#include "windows_rows.h"

// Calls `run` with the storage type, the type of the arithmetic, and how many of them make a number.
template <class Run> auto with_types(int32_t dtype, const Run &run) {
    switch (dtype) {
        case KM_F32: return run.template operator()<float, float, 1>();
        case KM_F64: return run.template operator()<double, double, 1>();
        case KM_C64: return run.template operator()<float, float, 2>();
        case KM_C128: return run.template operator()<double, double, 2>();
        case KM_BF16: return run.template operator()<bfloat16, float, 1>();
        default: return run.template operator()<float16, float, 1>();
    }
}

struct packed_bytes_run {
    const km_chain *chain;
    template <class S, class T, int C> int64_t operator()() const { return packed_bytes_of<T, C>(chain); }
};

struct pack_run {
    const km_chain *chain;
    void *packed;
    template <class S, class T, int C> void operator()() const { pack_chain<S, T, C>(chain, packed); }
};

struct scratch_run {
    const km_chain *chain;
    template <class S, class T, int C> int64_t operator()() const {
        return 2 * tile_bytes<T, C>(widest_features(chain), chain->tile_vectors);
    }
};

struct forward_run {
    const km_chain *chain;
    const void *packed;
    km_matrix x, y;
    int64_t batch;
    void *scratch;
    int32_t threads;
    template <class S, class T, int C> void operator()() const {
        const int64_t own = 2 * tile_bytes<T, C>(widest_features(chain), chain->tile_vectors);
        forward_tiles<S, T, C>((const packed_chain *)packed, x, y, batch, (char *)scratch, own, threads);
    }
};

struct rows_scratch_run {
    const km_chain *chain;
    template <class S, class T, int C> int64_t operator()() const { return rows::scratch_bytes<S, T, C>(chain); }
};

struct rows_run {
    const km_chain *chain;
    km_matrix x, y;
    int64_t batch;
    void *scratch;
    int32_t threads;
    template <class S, class T, int C> void operator()() const {
        rows::multiply<S, T, C>(chain, x, y, batch, scratch, threads);
    }
};

struct rows_ordered_bytes_run {
    const km_chain *chain;
    template <class S, class T, int C> int64_t operator()() const {
        return rows::order<S, T, C>(chain, (S *)nullptr) * int64_t(sizeof(S));
    }
};

struct rows_order_run {
    const km_chain *chain;
    void *ordered;
    template <class S, class T, int C> void operator()() const { rows::order<S, T, C>(chain, (S *)ordered); }
};

struct backward_scratch_run {
    const km_chain *chain;
    template <class S, class T, int C> int64_t operator()() const {
        return plan_backward<T, C>(chain, INT64_MAX, 1).end * int64_t(sizeof(T));  // of the highest tile
    }
};

struct backward_run {
    const km_chain *chain;
    const void *packed;
    km_matrix grad, x, grad_x;
    void *const *grad_weights;
    int64_t batch;
    void *scratch;
    int32_t threads;
    template <class S, class T, int C> void operator()() const {
        backward_tiles<S, T, C>(chain, (const packed_chain *)packed, grad, x, grad_x, grad_weights, batch, (T *)scratch,
                                threads);
    }
};

static int64_t packed_bytes(const km_chain *chain) { return with_types(chain->dtype, packed_bytes_run{chain}); }
static void pack(const km_chain *chain, void *packed) { with_types(chain->dtype, pack_run{chain, packed}); }
static int64_t scratch_bytes(const km_chain *chain) { return with_types(chain->dtype, scratch_run{chain}); }

static void forward(const km_chain *chain, const void *packed, km_matrix x, km_matrix y, int64_t batch, void *scratch,
                    int32_t threads) {
    with_types(chain->dtype, forward_run{chain, packed, x, y, batch, scratch, threads});
}

static int64_t rows_scratch_bytes(const km_chain *chain) { return with_types(chain->dtype, rows_scratch_run{chain}); }

static void rows_forward(const km_chain *chain, km_matrix x, km_matrix y, int64_t batch, void *scratch,
                         int32_t threads) {
    with_types(chain->dtype, rows_run{chain, x, y, batch, scratch, threads});
}

static int64_t rows_ordered_bytes(const km_chain *chain) {
    return with_types(chain->dtype, rows_ordered_bytes_run{chain});
}

static void rows_order(const km_chain *chain, void *ordered) { with_types(chain->dtype, rows_order_run{chain, ordered}); }

static int64_t backward_scratch_bytes(const km_chain *chain) {
    return with_types(chain->dtype, backward_scratch_run{chain});
}

static void backward(const km_chain *chain, const void *packed, km_matrix grad, km_matrix x, km_matrix grad_x,
                     void *const *grad_weights, int64_t batch, void *scratch, int32_t threads) {
    with_types(chain->dtype, backward_run{chain, packed, grad, x, grad_x, grad_weights, batch, scratch, threads});
}

// ---- sums of boxes ----

// The same without the complex types, which have no kernels.
template <class Run> auto with_real_types(int32_t dtype, const Run &run) {
    switch (dtype) {
        case KM_F64: return run.template operator()<double, double>();
        case KM_BF16: return run.template operator()<bfloat16, float>();
        case KM_F16: return run.template operator()<float16, float>();
        default: return run.template operator()<float, float>();
    }
}

struct boxes_packed_bytes_run {
    const km_boxes *boxes;
    template <class S, class T> int64_t operator()() const { return segments::packed_bytes<T>(boxes); }
};

struct boxes_pack_run {
    const km_boxes *boxes;
    void *packed, *scratch;
    template <class S, class T> void operator()() const { segments::pack<S, T>(boxes, packed, scratch); }
};

struct boxes_forward_run {
    const void *packed;
    km_matrix x, y;
    const void *bias;
    int64_t batch;
    void *scratch;
    int64_t scratch_bytes;
    int32_t threads;
    template <class S, class T> void operator()() const {
        const segments::packed_boxes *head = (const segments::packed_boxes *)packed;
        segments::forward<S, T>(head, x, y, (const S *)bias, batch, (char *)scratch, scratch_bytes, threads);
    }
};

struct boxes_rows_scratch_run {
    const km_boxes *boxes;
    int32_t threads;
    template <class S, class T> int64_t operator()() const { return segments::rows_scratch_bytes<T>(boxes, threads); }
};

struct boxes_rows_run {
    const km_boxes *boxes;
    km_matrix x, y;
    const void *bias;
    int64_t batch;
    void *scratch;
    int32_t threads;
    template <class S, class T> void operator()() const {
        segments::multiply<S, T>(boxes, x, y, (const S *)bias, batch, scratch, threads);
    }
};

static int64_t boxes_packed_bytes(const km_boxes *boxes) {
    return with_real_types(boxes->dtype, boxes_packed_bytes_run{boxes});
}
static int64_t boxes_pack_scratch_bytes(const km_boxes *boxes) { return segments::pack_scratch_bytes(boxes); }
static void boxes_pack(const km_boxes *boxes, void *packed, void *scratch) {
    with_real_types(boxes->dtype, boxes_pack_run{boxes, packed, scratch});
}
static int64_t boxes_scratch_bytes(const km_boxes *boxes) {
    return segments::tile_scratch_bytes(boxes->n_in, boxes->n_out, boxes->n_boxes);
}
static void boxes_forward(int32_t dtype, const void *packed, km_matrix x, km_matrix y, const void *bias, int64_t batch,
                          void *scratch, int64_t scratch_bytes, int32_t threads) {
    with_real_types(dtype, boxes_forward_run{packed, x, y, bias, batch, scratch, scratch_bytes, threads});
}
static int64_t boxes_rows_scratch_bytes(const km_boxes *boxes, int32_t threads) {
    return with_real_types(boxes->dtype, boxes_rows_scratch_run{boxes, threads});
}
static void boxes_rows(const km_boxes *boxes, km_matrix x, km_matrix y, const void *bias, int64_t batch, void *scratch,
                       int32_t threads) {
    with_real_types(boxes->dtype, boxes_rows_run{boxes, x, y, bias, batch, scratch, threads});
}

// ---- rows under masks ----

static void masked(const km_windows *all, void *out, int32_t threads) {
    if (all->dtype == KM_F64) windows::masked<double>(all, (double *)out, threads);
    else windows::masked<float>(all, (float *)out, threads);
}

template <class T>
static void masked_gradients_of(const km_windows *all, const void *grad, void *to_content, void *to_width,
                                void *to_start, int32_t threads) {
    windows::gradients<T>(all, (const T *)grad, (T *)to_content, (T *)to_width, (T *)to_start, threads);
}

static void masked_gradients(const km_windows *all, const void *grad, void *to_content, void *to_width, void *to_start,
                             int32_t threads) {
    const auto run = all->dtype == KM_F64 ? masked_gradients_of<double> : masked_gradients_of<float>;
    run(all, grad, to_content, to_width, to_start, threads);
}

}  // namespace

extern "C" {
extern const km_kernels KM_JOIN(km_kernels_, KM_ISA);
const km_kernels KM_JOIN(km_kernels_, KM_ISA) = {
    KM_TEXT(KM_ISA),
    KM_VECTOR_BYTES,
    KM_JOIN(km_, KM_ISA)::max_log_radix,
    KM_JOIN(km_, KM_ISA)::max_log_radix_complex,
    KM_JOIN(km_, KM_ISA)::can_fuse,
    KM_JOIN(km_, KM_ISA)::packed_bytes,
    KM_JOIN(km_, KM_ISA)::pack,
    KM_JOIN(km_, KM_ISA)::scratch_bytes,
    KM_JOIN(km_, KM_ISA)::forward,
    KM_JOIN(km_, KM_ISA)::rows_scratch_bytes,
    KM_JOIN(km_, KM_ISA)::rows_forward,
    KM_JOIN(km_, KM_ISA)::rows_ordered_bytes,
    KM_JOIN(km_, KM_ISA)::rows_order,
    KM_JOIN(km_, KM_ISA)::backward_scratch_bytes,
    KM_JOIN(km_, KM_ISA)::backward,
    KM_JOIN(km_, KM_ISA)::boxes_packed_bytes,
    KM_JOIN(km_, KM_ISA)::boxes_pack_scratch_bytes,
    KM_JOIN(km_, KM_ISA)::boxes_pack,
    KM_JOIN(km_, KM_ISA)::boxes_scratch_bytes,
    KM_JOIN(km_, KM_ISA)::boxes_forward,
    KM_JOIN(km_, KM_ISA)::boxes_rows_scratch_bytes,
    KM_JOIN(km_, KM_ISA)::boxes_rows,
    KM_JOIN(km_, KM_ISA)::masked,
    KM_JOIN(km_, KM_ISA)::masked_gradients,
};
}
