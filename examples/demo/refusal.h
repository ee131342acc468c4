// A refusal: the one sentence with which the demo stops. main() prints it and exits with status 1.
// Used by every file of the demo.
#ifndef KVGEAR_EXAMPLES_DEMO_REFUSAL_H_
#define KVGEAR_EXAMPLES_DEMO_REFUSAL_H_

#include <sstream>
#include <stdexcept>
#include <string>

namespace demo {

class Refusal : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The parts written one after another.
template <class... Parts>
std::string Text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

template <class... Parts>
[[noreturn]] void Refuse(const Parts&... parts) {
  throw Refusal(Text(parts...));
}

/// Text from a file, made fit for one line: control characters become '?', long texts are cut.
inline std::string Shown(const std::string& text) {
  std::string out = text.substr(0, 120);
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 32 || static_cast<unsigned char>(c) >= 127) c = '?';
  }
  return text.size() > 120 ? out + "..." : out;
}

}  // namespace demo

#endif  // KVGEAR_EXAMPLES_DEMO_REFUSAL_H_
