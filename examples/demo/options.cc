// One table of flags; each entry knows how to store its value.
#include "options.h"

#include <charconv>
#include <cmath>
#include <functional>

#include "refusal.h"

namespace demo {
namespace {

template <class Number>
Number ParseNumber(const std::string& flag, const std::string& value, Number least, Number most) {
  Number number{};
  const char* end = value.data() + value.size();
  const auto [stopped, error] = std::from_chars(value.data(), end, number);
  if (error != std::errc() || stopped != end || !(number >= least) || !(number <= most)) {
    Refuse(flag, " needs a number from ", least, " to ", most, ", not '", Shown(value), "'.");
  }
  return number;
}

std::vector<uint32_t> ParseIds(const std::string& flag, const std::string& list) {
  std::vector<uint32_t> ids;
  for (size_t begin = 0; begin <= list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    ids.push_back(ParseNumber<uint32_t>(flag, list.substr(begin, end - begin), 0, UINT32_MAX));
    begin = end + 1;
  }
  return ids;
}

/// "a/b.svg" and "a/b.png" become "a/b".
std::string WithoutEnding(const std::string& path) {
  const size_t stem = path.size() < 4 ? 0 : path.size() - 4;
  const std::string ending = path.substr(stem);
  return stem > 0 && (ending == ".svg" || ending == ".png") ? path.substr(0, stem) : path;
}

struct Flag {
  const char* name;
  const char* value;
  const char* help;
  std::function<void(Options&, const std::string&)> store;
};

const std::vector<Flag>& Flags() {
  static const std::vector<Flag> flags = {
      {"--model", "DIR", "checkpoint: config.json and model.safetensors (or shards with an index)",
       [](Options& o, const std::string& v) { o.model = v; }},
      {"--exams", "FILE", "exams, one JSON object with kind, prompt and answer a line",
       [](Options& o, const std::string& v) { o.exams = v; }},
      {"--text", "FILE", "text on which next-token distributions are compared",
       [](Options& o, const std::string& v) { o.text = v; }},
      {"--recipes", "A,B,C", "recipes to compare, by name or text; RECIPE@FILE with a plan file (default: all named ones)",
       [](Options& o, const std::string& v) { o.recipes = SplitRecipes(v); }},
      {"--also", "A,B", "recipes to compare beside the default ones",
       [](Options& o, const std::string& v) { o.also = SplitRecipes(v); }},
      {"--max-items", "N", "most exams of a kind, and most windows of the text (default: all)",
       [](Options& o, const std::string& v) {
         o.max_items = ParseNumber<uint32_t>("--max-items", v, 1, 1'000'000);
       }},
      {"--seed", "N", "which items --max-items takes; 0, the default, takes the first ones",
       [](Options& o, const std::string& v) {
         o.seed = ParseNumber<uint64_t>("--seed", v, 0, UINT64_MAX);
       }},
      {"--json", "FILE", "write the results as JSON",
       [](Options& o, const std::string& v) { o.json = v; }},
      {"--plot", "FILE", "draw the results to FILE.svg and FILE.png (an ending .svg or .png is cut)",
       [](Options& o, const std::string& v) { o.plot = WithoutEnding(v); }},
      {"--prompt", "TEXT", "no comparison: continue this text with the first recipe (or gear-4)",
       [](Options& o, const std::string& v) { o.prompt = v; }},
      {"--prompt-ids", "I,J,K", "the same from token numbers, for models whose tokens are not bytes",
       [](Options& o, const std::string& v) { o.prompt_ids = ParseIds("--prompt-ids", v); }},
      {"--max-tokens", "N", "most tokens that --prompt generates (default: 256)",
       [](Options& o, const std::string& v) {
         o.max_tokens = ParseNumber<uint32_t>("--max-tokens", v, 1, 1'000'000);
       }},
      {"--temperature", "T", "randomness of --prompt by --seed; 0, the default, is greedy",
       [](Options& o, const std::string& v) {
         o.temperature = ParseNumber<double>("--temperature", v, 0, 10);
       }},
      {"--device", "NAME", "where the caches lie: cpu (default), cuda or cuda:N",
       [](Options& o, const std::string& v) { o.device = v; }},
      {"--threads", "N", "threads that work (default: as many as the machine has)",
       [](Options& o, const std::string& v) {
         o.threads = ParseNumber<uint32_t>("--threads", v, 1, 256);
       }},
      {"--help", "", "print this", [](Options& o, const std::string&) { o.help = true; }},
  };
  return flags;
}

const Flag& FindFlag(const std::string& name) {
  for (const Flag& flag : Flags()) {
    if (name == flag.name) return flag;
  }
  std::string known;
  for (const Flag& flag : Flags()) known += std::string(known.empty() ? "" : ", ") + flag.name;
  Refuse("There is no flag '", Shown(name), "'; there are ", known, ".");
}

}  // namespace

Options ParseOptions(const std::vector<std::string>& arguments) {
  Options options;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const size_t equals = arguments[i].find('=');
    const Flag& flag = FindFlag(arguments[i].substr(0, equals));
    std::string value;
    if (*flag.value == '\0') {
      if (equals != std::string::npos) Refuse(flag.name, " takes no value.");
    } else if (equals != std::string::npos) {
      value = arguments[i].substr(equals + 1);
    } else if (++i < arguments.size()) {
      value = arguments[i];
    }
    if (*flag.value != '\0' && value.empty()) Refuse(flag.name, " needs a value: ", flag.value, ".");
    flag.store(options, value);
  }
  if (options.help) return options;
  if (options.model.empty()) Refuse("Say which model with --model DIR; see --help.");
  if (options.prompt && options.prompt_ids) {
    Refuse("Give either --prompt or --prompt-ids, not both.");
  }
  const bool generate = options.prompt || options.prompt_ids;
  if (!generate && options.exams.empty() && options.text.empty()) {
    Refuse("Nothing to do: give --exams FILE, --text FILE, or --prompt TEXT; see --help.");
  }
  if (generate && (!options.exams.empty() || !options.text.empty() || !options.json.empty() ||
                   !options.plot.empty())) {
    Refuse("--prompt only generates; leave --exams, --text, --json and --plot away.");
  }
  return options;
}

std::string Usage() {
  std::string out =
      "kvgear-demo: a small decoder whose keys and values live in kvgear's compressed cache.\n"
      "Compares recipes on exams and a text, or continues a prompt.\n\n";
  for (const Flag& flag : Flags()) {
    std::string left = std::string("  ") + flag.name + " " + flag.value;
    left.resize(std::max<size_t>(left.size() + 1, 22), ' ');
    out += left + flag.help + "\n";
  }
  return out;
}

std::vector<std::string> SplitRecipes(const std::string& list) {
  std::vector<std::string> recipes;
  for (size_t begin = 0; begin <= list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    const std::string piece = list.substr(begin, end - begin);
    if (piece.empty()) Refuse("--recipes '", Shown(list), "' has an empty place in it.");
    // The '=' of a setting comes before any ';' that begins an override for some layers.
    const bool setting = piece.find('=') < piece.find(';');
    if (setting && recipes.empty()) {
      Refuse("--recipes begins with the setting '", Shown(piece), "' instead of a name.");
    }
    if (setting) {
      recipes.back() += "," + piece;
    } else {
      recipes.push_back(piece);
    }
    begin = end + 1;
  }
  return recipes;
}

}  // namespace demo
