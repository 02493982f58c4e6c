// Element types that cross the border between Python and the kernels; the numbers are shared with fastdecode/ops/_dispatch.py.
#pragma once

namespace fastdecode {

enum DType : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

}  // namespace fastdecode
