// The Python module kmatrix._native: numbers and addresses in, checked against each other, kernels run.
//
// Sizes and indices are checked here, once, when a chain is described; that the addresses and strides of a call belong
// to tensors of the right shape is the caller's business. Kernels write only to the memory a call names and to scratch
// of the calling thread, so that threads may share a chain.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "binding_support.h"
#include "kmatrix.h"

namespace {

// ---- the chain ----

class Chain {
  public:
    Chain(int32_t dtype, const std::vector<int64_t> &patterns, const std::vector<int64_t> &strides,
          const std::vector<int32_t> &passes, int32_t tile_vectors, int64_t n_in, int64_t n_out,
          const std::optional<std::vector<int64_t>> &gather, const std::optional<std::vector<int64_t>> &take,
          const std::string &isa)
        : kernels(kernels_of(isa)), number(number_bytes(dtype)), factors(factors_of(patterns, strides)),
          pass_factors(passes) {
        product({n_in}, "n_in");
        product({n_out}, "n_out");
        const km_factor &first = factors.front(), &last = factors.back();
        const int64_t columns = first.a * first.c * first.d, rows = last.a * last.b * last.d;
        columns_of_x = indices_of(gather, "gather", columns, -1, n_in);
        rows_of_y = indices_of(take, "take", n_out, 0, rows);
        if (!gather && columns != n_in) refuse("n_in=" + std::to_string(n_in), "not the width of the first factor");
        if (!take && rows != n_out) refuse("n_out=" + std::to_string(n_out), "not the height of the last factor");
        if (tile_vectors < 1 || tile_vectors > 64) refuse("tile_vectors=" + std::to_string(tile_vectors), "not 1 to 64");
        chain = {dtype, int32_t(factors.size()), factors.data(), int32_t(passes.size()), pass_factors.data(),
                 tile_vectors, n_in, n_out, gather ? columns_of_x.data() : nullptr, take ? rows_of_y.data() : nullptr,
                 nullptr, nullptr};
        check_passes();
        for (const km_factor &f : factors) work += f.a * f.b * f.c * f.d;
    }
    Chain(const Chain &) = delete;

    static bool can_fuse(int32_t dtype, const std::vector<int64_t> &patterns, int32_t first, int32_t count,
                         const std::string &isa) {
        number_bytes(dtype);
        const std::vector<km_factor> factors = factors_of(patterns, std::vector<int64_t>(patterns.size()));
        km_chain chain = {};
        chain.dtype = dtype;
        chain.n_factors = int32_t(factors.size());
        chain.factors = factors.data();
        if (first < 0 || count < 1 || first > chain.n_factors - count) refuse("first, count", "no such factors");
        return kernels_of(isa)->can_fuse(&chain, first, count) != 0;
    }

    int64_t packed_nbytes() const { return kernels->packed_bytes(&chain); }
    int32_t dtype() const { return chain.dtype; }
    int64_t n_in() const { return chain.n_in; }
    int64_t n_out() const { return chain.n_out; }

    // Other threads see the new weights when all of them are there; calls that still run with the old ones keep them.
    void pack(const nb::sequence &pointers) {
        const km_chain described = with_weights(pointers);
        const int64_t bytes = packed_nbytes();
        std::shared_ptr<void> filled(allocate(bytes));
        const std::shared_ptr<void> bias_now = bias;
        {
            unlocked while_packing(bytes > bytes_worth_releasing);
            kernels->pack(&described, filled.get());
        }
        packed.swap(filled);
    }

    // For one row: the weights in the order of use, where that pays. Only before other threads know of this chain; the
    // weights must stay as they are.
    void order(const nb::sequence &pointers) {
        const km_chain described = with_weights(pointers);
        const int64_t bytes = kernels->rows_ordered_bytes(&described);
        if (!bytes) return;
        ordered = std::shared_ptr<void>(allocate(bytes));
        kernels->rows_order(&described, ordered.get());
        chain.ordered = ordered.get();
    }

    // The bias is packed with the weights, so they must be packed again.
    void set_bias(uintptr_t pointer) {
        packed.reset();
        bias.reset();
        if (pointer) {
            bias = std::shared_ptr<void>(allocate(chain.n_out * number));
            memcpy(bias.get(), (const void *)pointer, size_t(chain.n_out * number));
        }
        chain.bias = bias.get();
    }

    void forward(uintptr_t x, int64_t x_row, int64_t x_column, uintptr_t y, int64_t y_row, int64_t y_column,
                 int64_t batch, int64_t threads) const {
        const km_matrix from = matrix_of(x, x_row, x_column, batch), to = matrix_of(y, y_row, y_column, batch);
        const call_of_chain call = prepare(batch, threads, true);
        if (!batch) return;
        void *memory = scratch.at_least(kernels->scratch_bytes(&call.chain) * threads);
        unlocked while_computing(call.release);
        kernels->forward(&call.chain, call.packed.get(), from, to, batch, memory, int32_t(threads));
        scratch.keep(kept_per_thread * threads);
    }

    void rows(const nb::sequence &pointers, uintptr_t x, int64_t x_row, int64_t x_column, uintptr_t y, int64_t y_row,
              int64_t y_column, int64_t batch, int64_t threads) const {
        with_weights(pointers);
        rows_at_scratch(x, x_row, x_column, y, y_row, y_column, batch, threads);
    }

    // The same for weights at addresses that are known here.
    void rows_at(const void *const *pointers, uintptr_t x, int64_t x_row, int64_t x_column, uintptr_t y, int64_t y_row,
                 int64_t y_column, int64_t batch, int64_t threads) const {
        scratch.factors.assign(factors.begin(), factors.end());
        for (size_t i = 0; i < factors.size(); i++) scratch.factors[i].w = pointers[i];
        rows_at_scratch(x, x_row, x_column, y, y_row, y_column, batch, threads);
    }

    void backward(uintptr_t grad, int64_t grad_row, int64_t grad_column, uintptr_t x, int64_t x_row, int64_t x_column,
                  uintptr_t grad_x, int64_t grad_x_row, int64_t grad_x_column, const nb::sequence &grad_weights,
                  int64_t batch, int64_t threads) const {
        if (!kernels->backward) throw std::runtime_error("Chain: these kernels have no gradients");
        const km_matrix above = matrix_of(grad, grad_row, grad_column, batch);
        const km_matrix from = matrix_of(x, x_row, x_column, batch);
        const km_matrix to = matrix_of(grad_x, grad_x_row, grad_x_column, 0);
        const call_of_chain call = prepare(batch, threads, true);
        if (nb::len(grad_weights) != factors.size()) refuse("grad_weights", "not one address for each factor");
        std::vector<void *> targets;
        for (nb::handle each : grad_weights) targets.push_back(address(each));
        void *memory = scratch.at_least(kernels->backward_scratch_bytes(&call.chain) * threads);
        unlocked while_computing(call.release);
        kernels->backward(&call.chain, call.packed.get(), above, from, to, targets.data(), batch, memory,
                          int32_t(threads));
        scratch.keep(kept_per_thread * threads);
    }

  private:
    // What one call works with, so that another thread may pack meanwhile.
    struct call_of_chain {
        km_chain chain;
        std::shared_ptr<void> packed, bias;
        bool release;
    };

    // A few rows with the factors that this thread has just put down.
    void rows_at_scratch(uintptr_t x, int64_t x_row, int64_t x_column, uintptr_t y, int64_t y_row, int64_t y_column,
                         int64_t batch, int64_t threads) const {
        const km_matrix from = matrix_of(x, x_row, x_column, batch), to = matrix_of(y, y_row, y_column, batch);
        call_of_chain call = prepare(batch, threads, false);
        call.chain.factors = scratch.factors.data();
        if (!batch) return;
        void *memory = scratch.at_least(kernels->rows_scratch_bytes(&call.chain) * threads);
        unlocked while_computing(call.release);
        kernels->rows_forward(&call.chain, from, to, batch, memory, int32_t(threads));
        scratch.keep(kept_per_thread * threads);
    }

    void check_passes() const {
        int64_t first = 0;
        for (int32_t count : pass_factors) {
            if (count < 1 || first + count > chain.n_factors) refuse("passes", "they do not add up to the factors");
            if (!kernels->can_fuse(&chain, int32_t(first), count))
                refuse("passes", "factors " + std::to_string(first) + " to " + std::to_string(first + count - 1) +
                                     " cannot be one pass");
            first += count;
        }
        if (first != chain.n_factors) refuse("passes", "they do not add up to the factors");
    }

    km_chain with_weights(const nb::sequence &pointers) const {
        if (nb::len(pointers) != factors.size()) refuse("pointers", "not one address for each factor");
        scratch.factors.assign(factors.begin(), factors.end());
        size_t i = 0;
        for (nb::handle each : pointers)
            if (!(scratch.factors[i++].w = address(each))) refuse("pointers", "address 0");
        km_chain described = chain;
        described.factors = scratch.factors.data();
        return described;
    }

    call_of_chain prepare(int64_t batch, int64_t &threads, bool with_packed) const {
        if (batch < 0) throw nb::value_error("Chain: batch: below 0");
        if (threads < 1) throw nb::value_error("Chain: threads: below 1");
        if (threads > most_threads) threads = most_threads;
        if (forked) threads = 1;
        if (with_packed && !packed) throw std::runtime_error("Chain: no weights yet; call pack first");
        const bool release = batch >= worth_releasing || batch * work >= worth_releasing;
        return {chain, with_packed ? packed : nullptr, bias, release};
    }

    const km_kernels *kernels;
    int64_t number, work = 0;
    std::vector<km_factor> factors;
    std::vector<int32_t> pass_factors;
    std::vector<int64_t> columns_of_x, rows_of_y;
    std::shared_ptr<void> bias, packed, ordered;
    km_chain chain = {};
};

// ---- the module ----

nb::tuple compiled() {
    const char *names[8];
    const int32_t count = km_compiled(names, 8);
    nb::list found;
    for (int32_t i = 0; i < count; i++) found.append(names[i]);
    return nb::tuple(found);
}

std::tuple<int, int, int> limits(const std::string &isa) {
    const km_kernels *kernels = kernels_of(isa);
    return {kernels->vector_bytes, kernels->max_log_radix, kernels->max_log_radix_complex};
}

uint64_t fingerprint(const nb::sequence &pointers, const nb::sequence &nbytes) {
    const size_t count = nb::len(pointers);
    if (nb::len(nbytes) != count) throw nb::value_error("fingerprint: nbytes: not one for each pointer");
    std::vector<const void *> &parts = scratch.parts;
    std::vector<int64_t> &bytes = scratch.part_bytes;
    int64_t all = 0;
    parts.clear();
    bytes.clear();
    for (nb::handle each : pointers) parts.push_back(address(each));
    for (nb::handle each : nbytes) {
        const int64_t size = nb::cast<int64_t>(each);
        if (size < 0 || size > largest) throw nb::value_error("fingerprint: nbytes: below 0, or above 2^40");
        if (size && !parts[bytes.size()]) throw nb::value_error("fingerprint: pointers: address 0");
        bytes.push_back(size);
        all += size;
    }
    unlocked while_reading(all > bytes_worth_releasing);
    return km_fingerprint(parts.data(), bytes.data(), int32_t(count));
}

}  // namespace

#include "calls.h"

#include "boxes.h"

#include "windows.h"

extern const char *const km_sources;  // cmake/native.cmake

NB_MODULE(_native, m) {
    m.attr("sources") = km_sources;
    nb::set_leak_warnings(false);  // torch keeps references past the end of the interpreter
    m.def("forked", [] { forked = true; });
    m.def("compiled", &compiled);
    m.def("default_isa", [] { return kernels_of("")->isa; });
    m.def("limits", &limits, nb::arg("isa") = "");
    m.def("fingerprint", &fingerprint);
    nb::class_<Chain>(m, "Chain")
        .def(nb::init<int32_t, const std::vector<int64_t> &, const std::vector<int64_t> &, const std::vector<int32_t> &,
                      int32_t, int64_t, int64_t, const std::optional<std::vector<int64_t>> &,
                      const std::optional<std::vector<int64_t>> &, const std::string &>(),
             nb::arg("dtype"), nb::arg("patterns"), nb::arg("strides"), nb::arg("passes"), nb::arg("tile_vectors"),
             nb::arg("n_in"), nb::arg("n_out"), nb::arg("gather").none(), nb::arg("take").none(), nb::arg("isa") = "")
        .def_static("can_fuse", &Chain::can_fuse, nb::arg("dtype"), nb::arg("patterns"), nb::arg("first"),
                    nb::arg("count"), nb::arg("isa") = "")
        .def_prop_ro("packed_nbytes", &Chain::packed_nbytes)
        .def("pack", &Chain::pack)
        .def("set_bias", &Chain::set_bias)
        .def("forward", &Chain::forward)  // no named arguments: that is nanobind's short way to call
        .def("rows", &Chain::rows)
        .def("order", &Chain::order)
        .def("backward", &Chain::backward);
    bind_boxes(m);
    bind_windows(m);
    bind_calls(m);
}
