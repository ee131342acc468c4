// The questions: exams (a JSON object with kind, prompt and answer a line) and windows of a text.
// Used by evaluate.cc.
#ifndef KVGEAR_EXAMPLES_DEMO_EXAMS_H_
#define KVGEAR_EXAMPLES_DEMO_EXAMS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace demo {

struct Exam {
  std::string kind;
  std::string prompt;
  std::string answer;
};

/// All exams of a file, or a Refusal that names the line.
std::vector<Exam> ReadExams(const std::string& path);

/// At most `most` exams of each kind (0 = all), chosen by `seed`, in the order of the file.
/// Seed 0 takes the first ones.
std::vector<Exam> ChooseExams(const std::vector<Exam>& exams, size_t most, uint64_t seed);

/// At most `most` windows (0 = all) of `length` bytes that follow one another, chosen by `seed`, in
/// the order of the text. A text that is shorter than one window is one window.
std::vector<std::string> ChooseWindows(const std::string& text, size_t length, size_t most,
                                       uint64_t seed);

/// The bytes of a text as tokens.
std::vector<uint32_t> Tokens(const std::string& text);

}  // namespace demo

#endif  // KVGEAR_EXAMPLES_DEMO_EXAMS_H_
