// rows.h -- a measurement as the line of JSON that hdfast.bench.report reads.
#pragma once
#include <cmath>
#include <cstdio>
#include <string>

namespace hd::micro {

inline std::string json_text(std::string text) {
  for (char& c : text) c = c == '"' || c == '\\' ? '\'' : (unsigned char)(c) < 32 ? ' ' : c;
  return '"' + text + '"';
}
inline std::string json_number(double x) {
  if (!std::isfinite(x)) return "null";
  char text[32];
  snprintf(text, sizeof text, "%.6g", x);
  return text;
}

// NaN: there is no such number; a row without a value has failed, and `note` says why.
inline std::string row_text(const std::string& name, double value, const std::string& unit, double expected,
                            const std::string& note) {
  return "{\"step\": \"exchange\", \"case\": " + json_text(name) + ", \"precision\": \"\", \"value\": " +
         json_number(value) + ", \"unit\": " + json_text(unit) + ", \"expected\": " + json_number(expected) +
         ", \"note\": " + json_text(note) + "}";
}

}  // namespace hd::micro
