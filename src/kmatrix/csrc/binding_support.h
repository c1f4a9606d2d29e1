// What the bindings stand on: memory of the calling thread, the lock of Python, and checks of what Python passes.
#ifndef KMATRIX_BINDING_SUPPORT_H
#define KMATRIX_BINDING_SUPPORT_H

#include <nanobind/nanobind.h>

#include <cstdlib>
#include <initializer_list>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "kmatrix.h"

namespace nb = nanobind;

namespace {

constexpr int64_t largest = int64_t(1) << 40;       // of any product of sizes: no 64-bit address computation overflows
constexpr int64_t worth_releasing = 1 << 18;        // multiplications: some microseconds, against 0.1 for the lock
constexpr int64_t bytes_worth_releasing = 1 << 18;
constexpr int64_t kept_per_thread = int64_t(16) << 20;
constexpr int64_t most_threads = 1024;

// ---- memory ----

struct release {
    void operator()(void *memory) const { free(memory); }
};
using buffer = std::unique_ptr<void, release>;

buffer allocate(int64_t bytes) {
    void *memory = aligned_alloc(64, size_t(bytes + 63) / 64 * 64);
    if (!memory && bytes) throw std::bad_alloc();
    return buffer(memory);
}

// What the calling thread keeps from one call to the next; given back when it is larger than most calls need.
struct scratch_memory {
    buffer memory;
    int64_t bytes = 0;
    std::vector<km_factor> factors;
    std::vector<const void *> parts;
    std::vector<int64_t> part_bytes;

    void *at_least(int64_t wanted) {
#if defined(__SANITIZE_ADDRESS__)
        bytes = 0;  // exactly as much as was asked for, so that a step beyond is seen
#endif
        if (wanted > bytes) {
            memory.reset();
            bytes = 0;
            memory = allocate(wanted);
            bytes = wanted;
        }
        return memory.get();
    }

    void keep(int64_t limit) {
        if (bytes <= limit) return;
        memory.reset();
        bytes = 0;
    }
};
thread_local scratch_memory scratch;

// In a forked child the threads of OpenMP are gone, and asking for them would wait forever. Python says so: the fork may
// have been before this module was loaded.
bool forked = false;

// Lets other Python threads run while it lives, if there is enough work to pay for the lock.
class unlocked {
  public:
    explicit unlocked(bool wanted) : state(wanted ? PyEval_SaveThread() : nullptr) {}
    ~unlocked() {
        if (state) PyEval_RestoreThread(state);
    }
    unlocked(const unlocked &) = delete;

  private:
    PyThreadState *state;
};

// ---- arguments ----

[[noreturn]] void refuse(const std::string &argument, const std::string &reason, const std::string &where = "Chain") {
    throw nb::value_error((where + ": " + argument + ": " + reason).c_str());
}

const km_kernels *kernels_of(const std::string &isa) {
    if (const km_kernels *found = km_kernels_for(isa.c_str())) return found;
    const char *asked = getenv("KMATRIX_ISA");
    std::string message = "this processor runs none of the instruction sets of this build";
    if (!isa.empty() || (asked && *asked))
        message = (isa.empty() ? "KMATRIX_ISA=" + std::string(asked) : "isa='" + isa + "'") +
                  ": not in this build, or not on this processor";
    const char *names[8];
    const int32_t count = km_compiled(names, 8);
    message += "; the build holds";
    for (int32_t i = 0; i < count; i++) message += (i ? ", " : " ") + std::string(names[i]);
    if (!isa.empty()) throw nb::value_error(message.c_str());
    throw std::runtime_error(message);
}

void *address(nb::handle number) {
    void *pointer = PyLong_AsVoidPtr(number.ptr());
    if (!pointer && PyErr_Occurred()) throw nb::python_error();
    return pointer;
}

int64_t product(std::initializer_list<int64_t> sizes, const char *argument, const char *where = "Chain") {
    int64_t all = 1;
    for (int64_t size : sizes)
        if (size < 1 || __builtin_mul_overflow(all, size, &all) || all > largest)
            refuse(argument, "a size below 1, or more than 2^40 numbers", where);
    return all;
}

int64_t number_bytes(int32_t dtype, const char *where = "Chain") {
    switch (dtype) {
        case KM_F32: return 4;
        case KM_F64: case KM_C64: return 8;
        case KM_C128: return 16;
        case KM_BF16: case KM_F16: return 2;
    }
    refuse("dtype=" + std::to_string(dtype), "no such number type", where);
}

std::vector<km_factor> factors_of(const std::vector<int64_t> &patterns, const std::vector<int64_t> &strides) {
    if (patterns.empty() || patterns.size() % 4) refuse("patterns", "not four sizes for each factor");
    if (strides.size() != patterns.size()) refuse("strides", "not four for each factor");
    std::vector<km_factor> factors(patterns.size() / 4);
    for (size_t i = 0; i < factors.size(); i++) {
        const int64_t *size = patterns.data() + 4 * i, *stride = strides.data() + 4 * i;
        product({size[0], size[1], size[2], size[3]}, "patterns");
        factors[i] = {size[0], size[1], size[2], size[3], nullptr, stride[0], stride[1], stride[2], stride[3]};
        if (i && factors[i - 1].a * factors[i - 1].b * factors[i - 1].d != size[0] * size[2] * size[3])
            refuse("patterns", "factor " + std::to_string(i) + " does not take what the one before it gives");
    }
    return factors;
}

std::vector<int64_t> indices_of(const std::optional<std::vector<int64_t>> &given, const char *name, int64_t count,
                                int64_t lowest, int64_t end) {
    if (!given) return {};
    if (int64_t(given->size()) != count)
        refuse(name, std::to_string(given->size()) + " indices where there are " + std::to_string(count) + " places");
    for (int64_t index : *given)
        if (index < lowest || index >= end) refuse(name, "index " + std::to_string(index) + " is out of range");
    return *given;
}

km_matrix matrix_of(uintptr_t data, int64_t row, int64_t column, int64_t batch, const char *where = "Chain") {
    if (!data && batch) refuse("x, y", "address 0 where there are rows", where);
    if (row != 1 && column != 1) refuse("strides", "one of the two of a matrix must be 1", where);
    return {(void *)data, row, column};
}

}  // namespace

#endif
