// op.h -- defines a torch op from the text of a C++ function: HD_OP.
#pragma once

// The name the 2.11 headers give to the macro that later ones call STABLE_TORCH_ERROR_CODE_CHECK.
#include <torch/headeronly/util/shim_utils.h>
#ifndef STABLE_TORCH_ERROR_CODE_CHECK
#define STABLE_TORCH_ERROR_CODE_CHECK TORCH_ERROR_CODE_CHECK
#endif
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#ifdef HD_EMU
#define HD_NAMESPACE hdfast_emu
#else
#define HD_NAMESPACE hdfast
#endif
// 1 where the launchers of this file's family are linked in: set per file by CMakeLists.txt.
#ifndef HD_DEVICE_KERNELS
#define HD_DEVICE_KERNELS 0
#endif

// HD_OP(Results<2>, op, (Tensor x, Out y, double mix)) {...}: a function, and the op of its name for the CPU key and,
// if the device kernels are linked in, for the CUDA key. The op's schema follows from the text of the parameters, of
// the types listed in `schema`. Messages of the function's checks begin with the op's name.
#define HD_OP(Result, op, parameters)                                                                    \
  Result op parameters;                                                                                  \
  STABLE_TORCH_LIBRARY_FRAGMENT(HD_NAMESPACE, m) { m.def((#op + schema<Result>(#parameters)).c_str()); } \
  STABLE_TORCH_LIBRARY_IMPL(HD_NAMESPACE, CPU, m) { m.impl(#op, HD_BOX(op)); }                           \
  HD_OP_CUDA(op)                                                                                         \
  Result op parameters
#if HD_DEVICE_KERNELS && !defined(HD_EMU)
#define HD_OP_CUDA(op) \
  STABLE_TORCH_LIBRARY_IMPL(HD_NAMESPACE, CUDA, m) { m.impl(#op, HD_BOX(op)); }
#else
#define HD_OP_CUDA(op)
#endif
#define HD_BOX(op)                                                   \
  [](StableIValue* stack, uint64_t arguments, uint64_t results) {    \
    named(#op, [&] { TORCH_BOX (&op)(stack, arguments, results); }); \
  }

namespace hd::ops {

using torch::stable::Tensor;
using Maybe = std::optional<Tensor>;
using Tensors = std::vector<Tensor>;
using Numbers = std::vector<double>;
using Integers = std::vector<int64_t>;
using Flag = bool;  // false where it is not given
// Tensors that the op writes into.
using Out = Tensor;
using MaybeOut = Maybe;
using Outs = Tensors;
template <size_t N>
using Results = decltype(std::tuple_cat(std::declval<std::array<Tensor, N>>()));

// What follows an op's name in its schema: of "(Tensor x, Out y)" without results "(Tensor x, Tensor(a!) y) -> ()".
template <class Result>
std::string schema(const std::string& parameters) {
  static const std::map<std::string, std::string> types{
      {"Tensor", "Tensor"}, {"Maybe", "Tensor?"},        {"Tensors", "Tensor[]"},  {"Out", "Tensor(*!)"},
      {"bool", "bool"},     {"MaybeOut", "Tensor(*!)?"}, {"Outs", "Tensor(*!)[]"}, {"int64_t", "int"},
      {"Flag", "bool"},     {"double", "float"},         {"Numbers", "float[]"},   {"Integers", "int[]"}};
  std::string text = "(", type, name;
  for (std::istringstream words(parameters.substr(1)); words >> type >> name; text += name + ' ') {
    if (type == "Flag") name.insert(name.size() - 1, "=False");  // before the comma or parenthesis
    text += types.at(type) + ' ';
  }
  char letter = 'a';
  for (char& c : text)
    if (c == '*') c = letter++;
  if constexpr (std::is_void_v<Result>) return text + "-> ()";
  else if constexpr (std::is_same_v<Result, Tensors>) return text + "-> Tensor[]";
  else if constexpr (std::is_same_v<Result, Tensor>) return text + "-> Tensor";
  else {
    text += "-> (Tensor";
    for (size_t i = 1; i < std::tuple_size_v<Result>; ++i) text += ", Tensor";
    return text + ")";
  }
}

}  // namespace hd::ops
