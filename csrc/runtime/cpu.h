// Which instruction set the kernels use. Detected once, `FASTDECODE_CPU` overrides, `set_isa` switches (tests).
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace fastdecode {

enum class Isa { scalar = 0, avx2 = 1, avx512 = 2, amx = 3 };

const char* isa_name(Isa isa);
Isa isa();                             // the level in use; also implies every lower one
bool has_avx512_bf16();                // vdpbf16ps and vpdpbusd: present and allowed by the level in use
void set_isa(const std::string& name); // "auto" or a level; throws std::invalid_argument if the machine lacks it
std::vector<std::pair<std::string, bool>> cpu_features();

}  // namespace fastdecode
