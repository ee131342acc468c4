// One line that is written over on a terminal; a line every few seconds elsewhere.
#include "progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace demo {

Progress::Progress(size_t prompt_tokens, size_t steps)
    : terminal_(isatty(STDERR_FILENO) != 0), start_(Clock::now()) {
  prompts_.total = prompt_tokens;
  steps_.total = steps;
}

Progress::~Progress() {
  if (terminal_) std::fputs("\r\033[K", stderr);
}

void Progress::DonePrompt(size_t tokens, double seconds) {
  prompts_.done += tokens;
  prompts_.seconds += seconds;
}

void Progress::DoneSteps(size_t steps, double seconds) {
  steps_.done += steps;
  steps_.seconds += seconds;
}

double Progress::SecondsLeft() const {
  double left = 0;
  for (const Work* work : {&prompts_, &steps_}) {
    if (work->done >= work->total) continue;
    if (work->done == 0) return -1;
    left += work->seconds / static_cast<double>(work->done) *
            static_cast<double>(work->total - work->done);
  }
  return left;
}

void Progress::Show(const std::string& words) {
  const Clock::time_point now = Clock::now();
  const double pause = terminal_ ? 0.2 : 5.0;
  if (shown_ != Clock::time_point() && std::chrono::duration<double>(now - shown_).count() < pause) {
    return;
  }
  shown_ = now;
  const double spent = std::chrono::duration<double>(now - start_).count();
  const double left = SecondsLeft();
  char estimate[64] = "";
  if (left >= 0) {
    const double share = spent / std::max(spent + left, 1e-9);
    std::snprintf(estimate, sizeof(estimate), ", %2.0f %%, about %.0f s left", 100 * share, left);
  }
  std::fprintf(stderr, terminal_ ? "\r\033[K%s: %.0f s%s" : "%s: %.0f s%s\n", words.c_str(), spent,
               estimate);
  std::fflush(stderr);
}

}  // namespace demo
