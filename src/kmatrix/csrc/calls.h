// Calls on tensors that have been seen before: all there is to know about them is compared with what it was then, in
// one go. Where anything differs, the call is declined and Python takes the long way.
//
// torch hands out a C function that describes a tensor (the exchange table of DLPack), so none of this links to torch.
// What that function does not tell - lazy conjugation and negation, whether autograd watches - is asked of the objects.
#ifndef KMATRIX_CALLS_H
#define KMATRIX_CALLS_H

namespace {

// The parts of DLPack's binary interface that are read here, version 1.
struct dl_tensor {
    void *data;
    int32_t device, device_index, ndim;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t byte_offset;
};
struct dl_exchange {
    uint32_t major, minor;
    void *previous, *allocate, *from_object, *to_object;
    int (*describe)(void *object, dl_tensor *out);
    void *stream;
};
enum { DL_CPU = 1, DL_INT = 0, DL_FLOAT = 2, DL_BFLOAT = 4, DL_COMPLEX = 5 };

// What is known of torch, told once by `use_tensors`; the objects live as long as the process.
struct {
    int (*describe)(void *object, dl_tensor *out) = nullptr;
    PyTypeObject *tensor = nullptr, *parameter = nullptr;
    PyObject *is_neg = nullptr, *is_conj = nullptr, *requires_grad = nullptr;
} torch;

bool use_tensors(nb::handle tensor, nb::handle parameter) {
    const nb::object capsule = nb::getattr(tensor, "__dlpack_c_exchange_api__", nb::none());
    if (!PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) return false;
    const auto *table = (const dl_exchange *)PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api");
    if (table->major != 1 || !table->describe) return false;
    torch.tensor = (PyTypeObject *)tensor.inc_ref().ptr();
    torch.parameter = (PyTypeObject *)parameter.inc_ref().ptr();
    torch.is_neg = nb::object(tensor.attr("is_neg")).release().ptr();
    torch.is_conj = nb::object(tensor.attr("is_conj")).release().ptr();
    torch.requires_grad = PyUnicode_InternFromString("requires_grad");
    torch.describe = table->describe;
    return true;
}

// Describes a tensor that is no subclass and lies on the CPU; false for everything else.
bool describe(PyObject *object, dl_tensor *found) {
    if (Py_TYPE(object) != torch.tensor && Py_TYPE(object) != torch.parameter) return false;
    if (torch.describe(object, found)) {
        PyErr_Clear();  // a wrapper without memory, for example
        return false;
    }
    found->data = (char *)found->data + found->byte_offset;
    return found->device == DL_CPU && found->lanes == 1;
}

bool answers_yes(PyObject *answer) {
    if (!answer) throw nb::python_error();
    const bool yes = answer == Py_True;
    Py_DECREF(answer);
    return yes;
}

bool lazily_negated(PyObject *tensor) { return answers_yes(PyObject_CallFunctionObjArgs(torch.is_neg, tensor, nullptr)); }
bool lazily_conjugated(PyObject *tensor) {
    return answers_yes(PyObject_CallFunctionObjArgs(torch.is_conj, tensor, nullptr));
}
bool watched(PyObject *tensor) { return answers_yes(PyObject_GetAttr(tensor, torch.requires_grad)); }

bool is_of(const dl_tensor &found, int32_t dtype) {
    switch (dtype) {
        case KM_F32: return found.code == DL_FLOAT && found.bits == 32;
        case KM_F64: return found.code == DL_FLOAT && found.bits == 64;
        case KM_C64: return found.code == DL_COMPLEX && found.bits == 64;
        case KM_C128: return found.code == DL_COMPLEX && found.bits == 128;
        case KM_BF16: return found.code == DL_BFLOAT && found.bits == 16;
        default: return found.code == DL_FLOAT && found.bits == 16;
    }
}

// The object of a weak reference if it is this one.
bool is_object_of(PyObject *reference, PyObject *object) {
#if (defined(Py_LIMITED_API) ? Py_LIMITED_API : PY_VERSION_HEX) >= 0x030D0000
    PyObject *found = nullptr;
    if (PyWeakref_GetRef(reference, &found) < 0) throw nb::python_error();
    Py_XDECREF(found);
    return found == object;
#else
    return PyWeakref_GetObject(reference) == object;
#endif
}

// The tensors of one call. Questions to them run Python, and with it other threads, which may change the lists: so the
// tensors are held, and nothing about them is kept where another call could see it.
class held_tensors {
  public:
    held_tensors() = default;
    held_tensors(const held_tensors &) = delete;
    ~held_tensors() {
        for (PyObject *each : all) Py_DECREF(each);
    }

    // False if these are neither a list nor a tuple, or too many.
    bool take(PyObject *tensors, size_t most) {
        const bool list = PyList_CheckExact(tensors);
        if (!list && !PyTuple_CheckExact(tensors)) return false;
        const Py_ssize_t size = list ? PyList_Size(tensors) : PyTuple_Size(tensors);
        if (all.size() + size_t(size) > most) return false;
        all.reserve(most);
        for (Py_ssize_t i = 0; i < size; i++) {
            PyObject *each = list ? PyList_GetItem(tensors, i) : PyTuple_GetItem(tensors, i);
            if (!each) throw nb::python_error();
            Py_INCREF(each);
            all.push_back(each);
        }
        return true;
    }

    std::vector<PyObject *> all;
};

// A tensor as it was when the call was recorded. A negated view of the same memory is another object, so the question
// is put once to each object; a conjugated one can take the place of the data of the same object.
class Remembered {
  public:
    explicit Remembered(PyObject *tensor) {
        dl_tensor now;
        if (!describe(tensor, &now) || lazily_negated(tensor)) throw nb::value_error("Call: tensors: not a plain tensor");
        code = now.code;
        bits = now.bits;
        shape.assign(now.shape, now.shape + now.ndim);
        strides.assign(now.strides, now.strides + now.ndim);
        int64_t span = 1;
        for (size_t i = 0; i < shape.size(); i++) span += (shape[i] - 1) * strides[i];
        bytes = span * bits / 8;
        object = weak(tensor);
    }

    // Its address now, or null if anything but the numbers has changed.
    void *same(PyObject *tensor) {
        dl_tensor now;
        if (!describe(tensor, &now) || now.code != code || now.bits != bits || size_t(now.ndim) != shape.size())
            return nullptr;
        for (size_t i = 0; i < shape.size(); i++)
            if (now.shape[i] != shape[i] || now.strides[i] != strides[i]) return nullptr;
        if (code == DL_COMPLEX && lazily_conjugated(tensor)) return nullptr;
        if (!is_object_of(object.ptr(), tensor)) {
            if (lazily_negated(tensor)) return nullptr;
            object = weak(tensor);
        }
        return now.data;
    }

    int64_t bytes;

  private:
    static nb::object weak(PyObject *tensor) { return nb::steal(PyWeakref_NewRef(tensor, nullptr)); }

    uint8_t code, bits;
    std::vector<int64_t> shape, strides;
    nb::object object;
};

// A batch of vectors as the kernels read it, and the memory between its first and its last number.
struct vectors {
    const char *start, *end;
    int64_t row, column, batch;
    bool apart, is_complex;  // whether no two of its numbers share a place
};

bool meet(const vectors &one, const vectors &other) { return one.start < other.end && other.start < one.end; }

// False if the vectors lie neither in rows nor in columns.
bool vectors_of(PyObject *tensor, int32_t dtype, int64_t length, vectors *found) {
    dl_tensor now;
    if (!describe(tensor, &now) || !is_of(now, dtype) || now.ndim < 1) return false;
    const int last = now.ndim - 1;
    if (now.shape[last] != length) return false;
    int64_t row = 0, column = length == 1 ? 1 : now.strides[last], batch = 1;
    for (int i = last - 1; i >= 0; i--) {
        const int64_t size = now.shape[i];
        if (size == 1) continue;
        if (batch == 1)
            row = now.strides[i];
        else if (now.strides[i] != row * batch)
            return false;
        batch *= size;
    }
    if (batch == 1) row = column == 1 ? length : 1;
    if (batch < 1 || (row != 1 && column != 1)) return false;
    const char *start = (const char *)now.data;
    const int64_t numbers = 1 + (batch - 1) * row + (length - 1) * column;
    const bool apart = column == 1 ? batch == 1 || row >= length : column >= batch;
    *found = {start, start + numbers * now.bits / 8, row, column, batch, apart, now.code == DL_COMPLEX};
    return true;
}

// A product that Python has prepared and run once: the chain, and what its tensors looked like.
class Call {
  public:
    // `tensors`: the weights, then whatever else the chain was made from; `stamp`: the fingerprint of all that the chain
    // has copied: of the weights only if they are packed.
    Call(nb::object chain, const nb::sequence &tensors, size_t weights, bool packed, uint64_t stamp)
        : owner(chain), chain(nb::cast<Chain *>(chain)), weights(weights), packed(packed), stamp(stamp) {
        if (!torch.describe) throw std::runtime_error("Call: use_tensors has not been called");
        for (nb::handle each : tensors) remembered.emplace_back(each.ptr());
        if (weights > remembered.size()) throw nb::value_error("Call: weights: more than there are tensors");
        fixed.resize(remembered.size());
        for (size_t i = packed ? 0 : weights; i < remembered.size(); i++) bytes.push_back(remembered[i].bytes);
    }

    enum { NEW = 0, DONE = 1, WATCHED = 2 };

    // y = the product, if everything is as it was but for the numbers of x and of weights that are not packed. Where
    // only autograd stands in the way, it says so.
    int run(nb::handle x, nb::handle tensors, nb::handle others, nb::handle y, int64_t threads, bool grad_enabled) {
        const size_t count = remembered.size();
        held_tensors held;
        if (!held.take(tensors.ptr(), count) || !held.take(others.ptr(), count) || held.all.size() != count) return NEW;
        std::vector<const void *> places(count);
        for (size_t i = 0; i < count; i++)
            if (!(places[i] = remembered[i].same(held.all[i]))) return NEW;
        if (grad_enabled && (any_watched(held.all) || watched(x.ptr()))) return fits(x.ptr()) ? WATCHED : NEW;
        if (!bytes.empty()) {
            const size_t first = count - bytes.size();
            if (km_fingerprint(places.data() + first, bytes.data(), int32_t(bytes.size())) != stamp) return NEW;
        }
        return multiply(x.ptr(), y.ptr(), places, threads) ? DONE : NEW;
    }

    // The same for weights that nobody else can change: those at the addresses that `fix` was told.
    bool run_fixed(nb::handle x, nb::handle y, int64_t threads) const { return multiply(x.ptr(), y.ptr(), fixed, threads); }

    void fix(const nb::sequence &pointers) {
        std::vector<const void *> told;
        for (nb::handle each : pointers) told.push_back(address(each));
        if (told.size() != fixed.size()) throw nb::value_error("Call: pointers: not one for each tensor");
        fixed = std::move(told);
    }

  private:
    static bool any_watched(const std::vector<PyObject *> &tensors) {
        for (PyObject *each : tensors)
            if (watched(each)) return true;
        return false;
    }

    bool fits(PyObject *x) const {
        dl_tensor from;
        return describe(x, &from) && is_of(from, chain->dtype()) && from.ndim && from.shape[from.ndim - 1] == chain->n_in();
    }

    bool multiply(PyObject *x, PyObject *y, const std::vector<const void *> &places, int64_t threads) const {
        vectors from, to;
        const int32_t dtype = chain->dtype();
        if (!vectors_of(x, dtype, chain->n_in(), &from) || lazily_negated(x)) return false;
        if (from.is_complex && lazily_conjugated(x)) return false;
        if (!vectors_of(y, dtype, chain->n_out(), &to) || from.batch != to.batch || !to.apart || meet(from, to)) return false;
        for (size_t i = 0; i < remembered.size(); i++)
            if (to.start < (const char *)places[i] + remembered[i].bytes && (const char *)places[i] < to.end) return false;
        if (packed)
            chain->forward((uintptr_t)from.start, from.row, from.column, (uintptr_t)to.start, to.row, to.column, to.batch,
                           threads);
        else
            chain->rows_at(places.data(), (uintptr_t)from.start, from.row, from.column, (uintptr_t)to.start, to.row,
                           to.column, to.batch, threads);
        return true;
    }

    nb::object owner;
    Chain *chain;
    size_t weights;
    bool packed;
    uint64_t stamp;
    std::vector<Remembered> remembered;
    std::vector<const void *> fixed;
    std::vector<int64_t> bytes;
};

void bind_calls(nb::module_ &m) {
    m.def("use_tensors", &use_tensors);
    nb::class_<Call>(m, "Call")
        .def(nb::init<nb::object, const nb::sequence &, size_t, bool, uint64_t>())
        .def("run", &Call::run)
        .def("run_fixed", &Call::run_fixed)
        .def("fix", &Call::fix);
}

}  // namespace

#endif
