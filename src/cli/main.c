/* ksweep: the command line. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"

static const command commands[] = {
    {"run", "JOB [options]", "render a job, or what is missing of it (alone, under mpirun, under srun)",
     SOURCE_HELP
     "  -t, --threads N        CPU threads of a rank (default: its share of the CPUs)\n"
     "      --progress N       a progress line every N seconds when stderr is no terminal (default 60)\n"
     "  -q, --quiet            no progress line\n"
     PARTS_HELP
     "      --deadline S       seconds after which what a silent rank was lent goes to others, and at the end it is not waited\n"
     "                         for (default 600; more where samples are slow)\n"
     "      --share-gpus       let several ranks of a node render on one GPU\n",
     command_run},
    {"plan", "JOB [options]", "what would run: axes, samples, rows, memory, output size, expected time",
     SOURCE_HELP PARTS_HELP, command_plan},
    {"submit", "JOB [options]", "write a Slurm batch script that renders a job, and hand it to sbatch",
     SOURCE_HELP
     "  -N, --nodes N          nodes (default 1)\n"
     "      --gpus-per-node G  GPUs of each node (default none)\n"
     "      --tasks-per-node T ranks of each node (default: one a GPU, or one)\n"
     "      --cpus-per-task C  CPUs of each rank (default with GPUs: the partition's; else all, of whole nodes)\n"
     "      --time T           time limit: 90 (minutes), 4:00:00, 2-12 (days-hours); default: the partition's\n"
     "  -p, --partition P      partition\n"
     "  -A, --account A        account\n"
     "      --preemptible      go back into the queue when preempted and before the time limit, until all is done\n"
     "      --sbatch OPTION    one more option of sbatch, as --sbatch=--mem=64G (repeatable)\n"
     "      --script FILE      the script to write (default: JOB's name with .sbatch)\n"
     "      --dry-run          print the script, and write and submit nothing\n",
     command_submit},
    {"status", "OUT [options]", "how far a run is, from its files, while it runs or after",
     "      --check            test the digests of all latents, also of more than 1 GiB\n", command_status},
    {"sheet", "OUT [options]", "contact sheet with labelled axes",
     "  -x AXIS                the axis along the top (default: the one with most values)\n"
     "  -y AXIS                the axis down the side (default: the next one)\n"
     "  -o, --output FILE      the PNG to write (default: OUT's name with .png)\n"
     "      --cell N           pixels of a cell (default: the pictures' own size)\n",
     command_sheet},
    {"show", "OUT ROW", "the job file that renders this one row again, alone", "", command_show},
    {"verify", "OUT [options]", "test every row's digest, and render samples again to compare them bit by bit",
     "      --sample N         how many to render again (default 0)\n"
     "  -t, --threads N        CPU threads (default: all)\n",
     command_verify},
    {"model", "FILE", "what a checkpoint is, by its tensors", "", command_model},
};
enum { COMMANDS = sizeof commands / sizeof commands[0] };

void print_usage(const command *self)
{
    printf("usage: ksweep %s %s\n%s\n", self->name, self->arguments, self->summary);
    if (self->help[0])
        printf("\n%s", self->help);
}

static void print_help(void)
{
    puts("usage: ksweep COMMAND ...\nComfyUI's KSampler as a batch program: one job file, any number of GPUs or CPUs.\n");
    for (int i = 0; i < COMMANDS; i++)
        printf("  ksweep %-7s %-14s %s\n", commands[i].name, commands[i].arguments, commands[i].summary);
    puts("\n  ksweep COMMAND --help   a command's options\n  ksweep --version        version and revision\n\n"
         "exit codes: 0 done, 1 some samples failed, 2 wrong use or bad input, 75 stopped early: the same command goes on");
}

int complain(const char *format, ...)
{
    char text[2 * KS_ERROR_TEXT];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (text[0])
        fprintf(stderr, "ksweep: %s\n", text);
    return KS_EXIT_BAD_INPUT;
}

bool flush_output(void)
{
    static bool told;
    bool failed = fflush(stdout) || ferror(stdout);
    if (failed && !told)
        complain("standard output: %s", strerror(errno));
    told |= failed;
    return !failed;
}

int print_text(char *text)
{
    fputs(text, stdout);
    flush_output();
    free(text);
    return KS_EXIT_DONE;
}

/* The exit code of a command that would end with `code`: no success when what it printed is lost. */
static int end_output(int code)
{
    return flush_output() ? code : KS_EXIT_BAD_INPUT;
}

/* A stopped run goes on with the same command, whatever became of its last lines. */
static int run_command(const command *c, int argc, char **argv)
{
    int code = c->run(c, argc, argv), shown = end_output(code);
    return c->run == command_run && code == KS_EXIT_RESUMABLE ? code : shown;
}

int next_option(const command *self, int argc, char **argv, const char *letters, const struct option *names)
{
    opterr = 0;
    int c = getopt_long(argc, argv, letters, names, NULL);
    if (c == 'h') {
        print_usage(self);
        exit(end_output(KS_EXIT_DONE));
    }
    if (c == '?' || c == ':') {
        const char *culprit = argv[optind - 1];
        exit(complain("%s: %s %s; see ksweep %s --help", self->name, c == ':' ? "a value is missing behind" : "unknown option",
                      culprit, self->name));
    }
    return c;
}

const char *only_argument(const command *self, int argc, char **argv, const char *what)
{
    if (optind == argc)
        exit(complain("%s: %s is missing; usage: ksweep %s %s", self->name, what, self->name, self->arguments));
    if (optind + 1 < argc)
        exit(complain("%s: one %s is wanted, and there is also \"%s\"", self->name, what, argv[optind + 1]));
    return argv[optind];
}

int64_t whole_number(const char *option, const char *text, int64_t low, int64_t high)
{
    char *end;
    long long value = strtoll(text, &end, 10);
    if (*end || end == text || value < low || value > high)
        exit(complain("%s: \"%s\" is no whole number from %lld to %lld", option, text, (long long)low, (long long)high));
    return value;
}

void source_add_set(source_options *s, const char *text)
{
    if (!strchr(text, '='))
        exit(complain("--set: \"%s\" has no \"=\"; wanted is PATH=VALUE, as in cfg=[2,4]", text));
    size_t room = (size_t)s->source.set_count + 1;
    const char **sets = realloc(s->sets, room * sizeof *sets);
    if (!sets)
        exit(complain("out of memory"));
    sets[s->source.set_count++] = text;
    s->source.sets = s->sets = sets;
}

int main(int argc, char **argv)
{
    if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        print_help();
        return end_output(argc < 2 ? KS_EXIT_BAD_INPUT : KS_EXIT_DONE);
    }
    if (!strcmp(argv[1], "--version")) {
        printf("ksweep %s\n", ks_version());
        return end_output(KS_EXIT_DONE);
    }
    for (int i = 0; i < COMMANDS; i++) {
        if (!strcmp(argv[1], commands[i].name))
            return run_command(&commands[i], argc - 1, argv + 1);
    }
    return complain("\"%s\" is no command; see ksweep --help", argv[1]);
}
