// The line on stderr that says how far the comparison is and how long it will still take. Used by
// evaluate.cc.
#ifndef KVGEAR_EXAMPLES_DEMO_PROGRESS_H_
#define KVGEAR_EXAMPLES_DEMO_PROGRESS_H_

#include <chrono>
#include <cstddef>
#include <string>

namespace demo {

/// Two kinds of work with a speed of their own: tokens of prompts (read once, then compressed by
/// every recipe), and decode steps (each for all recipes together).
class Progress {
 public:
  Progress(size_t prompt_tokens, size_t steps);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void DonePrompt(size_t tokens, double seconds);
  void DoneSteps(size_t steps, double seconds);
  /// Shows the state with these words in front, unless that was done a moment ago.
  void Show(const std::string& words);

 private:
  using Clock = std::chrono::steady_clock;
  struct Work {
    size_t total = 0;
    size_t done = 0;
    double seconds = 0;
  };
  /// Seconds that are left, or a negative number while that cannot be told.
  double SecondsLeft() const;

  Work prompts_, steps_;
  const bool terminal_;
  const Clock::time_point start_;
  Clock::time_point shown_;
};

}  // namespace demo

#endif  // KVGEAR_EXAMPLES_DEMO_PROGRESS_H_
