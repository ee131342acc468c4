// Small helpers to read recipe and plan texts: what a user typed, and how to quote it back.
//
// Called by core/model only.
#ifndef KVGEAR_CORE_MODEL_TEXT_H_
#define KVGEAR_CORE_MODEL_TEXT_H_

#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace kvg {

// The text in quotes, fit for a message: cut where it is long, with nothing unprintable in it.
inline std::string Quoted(std::string_view text) {
  constexpr size_t kMost = 40;
  const bool cut = text.size() > kMost;
  return absl::StrCat("\"", absl::CHexEscape(text.substr(0, kMost)), cut ? "...\"" : "\"");
}

// Digits and nothing else, in range; whatever the locale.
inline std::optional<uint32_t> ParseDigits(std::string_view text) {
  uint32_t value = 0;
  const char* end = text.data() + text.size();
  const auto [ptr, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || ptr != end) return std::nullopt;
  return value;
}

// The part before the first `separator`, trimmed; `rest` loses it. At the end `rest` has no value.
inline std::string_view TakePart(std::optional<std::string_view>& rest, char separator) {
  const size_t at = rest->find(separator);
  const std::string_view part = absl::StripAsciiWhitespace(rest->substr(0, at));
  if (at == std::string_view::npos) {
    rest.reset();
  } else {
    rest->remove_prefix(at + 1);
  }
  return part;
}

}  // namespace kvg

#endif  // KVGEAR_CORE_MODEL_TEXT_H_
