// Reading and choosing questions.
#include "exams.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "files.h"
#include "refusal.h"

namespace demo {
namespace {

/// `most` of the numbers below `count`, ascending. Seed 0 takes the first ones.
std::vector<size_t> Choose(size_t count, size_t most, uint64_t seed) {
  std::vector<size_t> chosen(count);
  for (size_t i = 0; i < count; ++i) chosen[i] = i;
  if (most == 0 || most >= count) return chosen;
  if (seed != 0) {
    std::mt19937_64 random(seed);
    for (size_t i = 0; i < most; ++i) std::swap(chosen[i], chosen[i + random() % (count - i)]);
  }
  chosen.resize(most);
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

}  // namespace

std::vector<Exam> ReadExams(const std::string& path) {
  const std::string content = ReadWholeFile(path);
  std::vector<Exam> exams;
  size_t line_number = 0;
  for (size_t begin = 0; begin < content.size();) {
    const size_t end = std::min(content.find('\n', begin), content.size());
    const auto from = content.begin() + static_cast<std::ptrdiff_t>(begin);
    const auto to = content.begin() + static_cast<std::ptrdiff_t>(end);
    ++line_number;
    begin = end + 1;
    if (std::all_of(from, to, [](char c) { return c == ' ' || c == '\t' || c == '\r'; })) continue;
    const nlohmann::json line = nlohmann::json::parse(from, to, nullptr, false);
    Exam exam;
    for (const auto& [key, value] : {std::pair{"kind", &exam.kind}, {"prompt", &exam.prompt},
                                     {"answer", &exam.answer}}) {
      if (!line.is_object() || !line.contains(key) || !line[key].is_string() ||
          line[key].get_ref<const std::string&>().empty()) {
        Refuse(path, ", line ", line_number, ": an exam is a JSON object with the texts 'kind', ",
               "'prompt' and 'answer'; '", key, "' is missing.");
      }
      *value = line[key].get<std::string>();
    }
    exams.push_back(std::move(exam));
  }
  if (exams.empty()) Refuse(path, " holds no exams.");
  return exams;
}

std::vector<Exam> ChooseExams(const std::vector<Exam>& exams, size_t most, uint64_t seed) {
  std::map<std::string, std::vector<size_t>> kinds;
  for (size_t i = 0; i < exams.size(); ++i) kinds[exams[i].kind].push_back(i);
  std::vector<size_t> all;
  for (const auto& [kind, places] : kinds) {
    for (const size_t i : Choose(places.size(), most, seed)) all.push_back(places[i]);
  }
  std::sort(all.begin(), all.end());
  std::vector<Exam> chosen;
  for (const size_t i : all) chosen.push_back(exams[i]);
  return chosen;
}

std::vector<std::string> ChooseWindows(const std::string& text, size_t length, size_t most,
                                       uint64_t seed) {
  if (text.size() <= length) return {text};
  std::vector<std::string> windows;
  for (const size_t i : Choose(text.size() / length, most, seed)) {
    windows.push_back(text.substr(i * length, length));
  }
  return windows;
}

std::vector<uint32_t> Tokens(const std::string& text) {
  std::vector<uint32_t> tokens;
  tokens.reserve(text.size());
  for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
  return tokens;
}

}  // namespace demo
