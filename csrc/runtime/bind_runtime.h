#pragma once

#include <pybind11/pybind11.h>

namespace fastdecode {

void bind_runtime(pybind11::module_& m);

}  // namespace fastdecode
