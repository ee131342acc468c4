// Running rsvg-convert, without a shell between.
#include "png.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>

#include <cerrno>
#include <string>
#include <vector>

#include "refusal.h"

extern char** environ;

namespace demo {
namespace {

/// The exit status of a program, or -1 when it could not be run. What it prints is dropped.
int ExitStatus(std::vector<std::string> words) {
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  if (posix_spawn_file_actions_init(&actions) != 0) return -1;
  posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
  pid_t child = 0;
  const int error = posix_spawnp(&child, arguments[0], &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return -1;
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return -1;
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

void RequireConverter() {
  if (ExitStatus({"rsvg-convert", "--version"}) == 0) return;
  Refuse("--plot needs the program rsvg-convert; install the package librsvg2-bin, or leave --plot ",
         "away.");
}

void ConvertToPng(const std::string& svg_path, const std::string& png_path) {
  if (ExitStatus({"rsvg-convert", "--zoom", "2", "--output", png_path, "--", svg_path}) != 0) {
    Refuse("rsvg-convert could not write ", png_path, " from ", svg_path, ".");
  }
}

}  // namespace demo
