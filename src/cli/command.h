/* Subcommands: one file and one row of main.c's table each. Only src/cli prints to stdout or decides exit codes. */
#ifndef KS_CLI_COMMAND_H
#define KS_CLI_COMMAND_H

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>

#include "ksweep/ksweep.h"

typedef struct command {
    const char *name;
    const char *arguments; /* behind the name in the usage line */
    const char *summary;   /* one line */
    const char *help;      /* options, a line each; "" when there are none */
    int (*run)(const struct command *self, int argc, char **argv); /* argv[0] is the command's name */
} command;

int command_run(const command *self, int argc, char **argv);
int command_plan(const command *self, int argc, char **argv);
int command_submit(const command *self, int argc, char **argv);
int command_status(const command *self, int argc, char **argv);
int command_show(const command *self, int argc, char **argv);
int command_sheet(const command *self, int argc, char **argv);
int command_verify(const command *self, int argc, char **argv);
int command_model(const command *self, int argc, char **argv);

void print_usage(const command *self);

/* "ksweep: <text>" on stderr; returns KS_EXIT_BAD_INPUT. Nothing is printed for an empty text. */
int complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Brings to stdout what was printed. The first time that it cannot be is told on stderr. Whether all of it has arrived. */
bool flush_output(void);

/* Prints a text and frees it. Returns KS_EXIT_DONE: whether it has arrived is asked at the command's end. */
int print_text(char *text);

/* getopt_long with --help (prints, exits 0) and unknown options (one line, exits 2) dealt with. */
int next_option(const command *self, int argc, char **argv, const char *letters, const struct option *names);

/* The one argument that is left after the options; exits with 2 when there are none or several. */
const char *only_argument(const command *self, int argc, char **argv, const char *what);

/* A whole number in low..high from an option's text; exits with 2 when it is none. */
int64_t whole_number(const char *option, const char *text, int64_t low, int64_t high);

/* --set and -o, as run and plan take them. */
typedef struct source_options {
    ks_job_source source;
    const char **sets;
} source_options;
void source_add_set(source_options *s, const char *text);

#define SOURCE_HELP                                                                                       \
    "  -o, --output OUT       the output file, in place of the job's output.file\n"                       \
    "      --set PATH=VALUE   change the job: cfg=[2,4], seed.count=10, output.images=true (repeatable)\n"

/* --filter and --shard, as run and plan take them. */
#define PARTS_HELP \
    "      --filter A=VALUES  only samples with these values of axis A: cfg=2..4, seed=42,43, index=0..99 (repeatable:\n" \
    "                         all must hold)\n" \
    "      --shard I/N        only part I of N, 0/N to (N-1)/N; the runs share one output, and the last one collects it\n"

#endif
