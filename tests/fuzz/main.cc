// Runs a fuzz target: under libFuzzer with KVGEAR_LIBFUZZER, else by itself.
//
//   TARGET PATH...                     each file, or each file of each folder, once
//   TARGET --for SECONDS [SEED] PATH...  changes of them at random until the time is over: bits, numbers, cuts, splices
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/fuzz/target.h"

#if defined(KVGEAR_LIBFUZZER)

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  kvg::test::FuzzOne(data, size);
  return 0;
}

#else

namespace {

using Input = std::vector<uint8_t>;

Input ReadInput(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return Input(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

class Dice {
 public:
  explicit Dice(uint64_t seed) : state_(seed) {}
  uint64_t Roll(uint64_t sides) {
    state_ += 0x9E3779B97F4A7C15u;
    uint64_t x = state_;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return (x ^ (x >> 31)) % sides;
  }

 private:
  uint64_t state_;
};

void Change(Input& input, const std::vector<Input>& inputs, Dice& dice) {
  constexpr uint64_t kNumbers[] = {0, 1, 0xFF, 0x7F, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1ull << 62, ~0ull, 64, 8192};
  for (uint64_t changes = 1 + dice.Roll(6); changes > 0 && !input.empty(); --changes) {
    // Tables and headers are at the front; most of a file is payload.
    const size_t reach = dice.Roll(2) == 0 ? std::min<size_t>(input.size(), 1500) : input.size();
    const size_t at = dice.Roll(reach);
    switch (dice.Roll(7)) {
      case 0:
        input[at] ^= static_cast<uint8_t>(1u << dice.Roll(8));
        break;
      case 1:
        input[at] = static_cast<uint8_t>(dice.Roll(256));
        break;
      case 2: {
        const uint64_t number = kNumbers[dice.Roll(std::size(kNumbers))];
        const size_t aligned = at / 4 * 4 + 1;  // behind the first byte of a loaded file lie aligned numbers
        const size_t bytes = size_t{1} << dice.Roll(4);
        if (aligned + bytes <= input.size()) std::memcpy(&input[aligned], &number, bytes);
        break;
      }
      case 3:
        input.resize(at);
        break;
      case 4: {
        const Input& other = inputs[dice.Roll(inputs.size())];
        if (other.empty()) break;
        const size_t from = dice.Roll(other.size());
        const size_t bytes = std::min({other.size() - from, input.size() - at, size_t{1} + dice.Roll(300)});
        std::memcpy(&input[at], &other[from], bytes);
        break;
      }
      case 5:
        input.insert(input.begin() + static_cast<long>(at), static_cast<uint8_t>(dice.Roll(256)));
        break;
      case 6:
        input[0] = static_cast<uint8_t>(dice.Roll(256));
        break;
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  int next = 1;
  double seconds = 0;
  uint64_t seed = 1;
  if (argc > 2 && std::strcmp(argv[1], "--for") == 0) {
    seconds = std::atof(argv[2]);
    next = 3;
    if (argc > 3 && argv[3][0] >= '0' && argv[3][0] <= '9') seed = std::strtoull(argv[next++], nullptr, 10);
  }
  std::vector<Input> inputs;
  for (; next < argc; ++next) {
    const std::filesystem::path path(argv[next]);
    if (!std::filesystem::is_directory(path)) {
      inputs.push_back(ReadInput(path));
      continue;
    }
    for (const auto& entry : std::filesystem::directory_iterator(path)) inputs.push_back(ReadInput(entry.path()));
  }
  if (inputs.empty()) {
    std::fprintf(stderr, "usage: %s [--for SECONDS [SEED]] PATH...\n", argv[0]);
    return 2;
  }
  for (const Input& input : inputs) kvg::test::FuzzOne(input.data(), input.size());
  unsigned long long runs = 0;
  Dice dice(seed);
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (std::chrono::steady_clock::now() < end) {
    Input input = inputs[dice.Roll(inputs.size())];
    Change(input, inputs, dice);
    if (seconds > 0) {  // so that what ended the program can be run again
      std::ofstream last("fuzz-last-input", std::ios::binary);
      last.write(reinterpret_cast<const char*>(input.data()), static_cast<std::streamsize>(input.size()));
    }
    kvg::test::FuzzOne(input.data(), input.size());
    ++runs;
  }
  std::printf("%zu inputs, %llu changes of them\n", inputs.size(), runs);
  return 0;
}

#endif
