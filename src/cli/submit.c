#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "cli/command.h"

/* JOB's name with .sbatch in place of its ending. */
static char *default_script(const char *job)
{
    const char *slash = strrchr(job, '/'), *name = slash ? slash + 1 : job,
               *dot = strrchr(name, '.');
    size_t n = dot && dot > name ? (size_t)(dot - job) : strlen(job);
    char *path = malloc(n + sizeof ".sbatch");
    if (!path)
        exit(complain("out of memory"));
    memcpy(path, job, n);
    strcpy(path + n, ".sbatch");
    return path;
}

/* Hands the script to sbatch, which prints its answer itself, unless nobody would read it. */
static int run_sbatch(char *script)
{
    char *arguments[] = {"sbatch", script, NULL};
    pid_t child;
    int status;
    puts(script);
    if (!flush_output()) /* neither could sbatch say what it did */
        return KS_EXIT_BAD_INPUT;
    int failed = posix_spawnp(&child, "sbatch", NULL, NULL, arguments, environ);
    if (failed)
        return complain("%s is written, and sbatch cannot be run: %s", script, strerror(failed));
    if (waitpid(child, &status, 0) < 0 || !WIFEXITED(status) || WEXITSTATUS(status))
        return complain("%s is written, and sbatch did not take it", script);
    return KS_EXIT_DONE;
}

/* What the command line says. */
typedef struct submission {
    ks_submit_options options;
    source_options source;
    const char **sbatch;
    char *script; /* NULL: beside the job */
    bool dry_run;
} submission;

enum { SET = 1000, TIME, TASKS, GPUS, CPUS, PREEMPTIBLE, SBATCH, SCRIPT, DRY_RUN };

static void add_sbatch(submission *s, const char *text)
{
    int count = s->options.sbatch_count;
    const char **longer = realloc(s->sbatch, ((size_t)count + 1) * sizeof *longer);
    if (!longer)
        exit(complain("out of memory"));
    longer[count] = text;
    s->options.sbatch = s->sbatch = longer;
    s->options.sbatch_count = count + 1;
}

/* Whether it was an option whose value is a number. */
static bool take_number(submission *s, int option)
{
    const struct {
        int option, low, high;
        const char *name;
        int *value;
    } numbers[] = {
        {'N', 1, 1000000, "--nodes", &s->options.nodes},
        {TASKS, 1, 4096, "--tasks-per-node", &s->options.tasks_per_node},
        {GPUS, 0, 4096, "--gpus-per-node", &s->options.gpus_per_node},
        {CPUS, 1, 4096, "--cpus-per-task", &s->options.cpus_per_task},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (numbers[i].option != option)
            continue;
        *numbers[i].value = (int)whole_number(numbers[i].name, optarg, numbers[i].low,
                                              numbers[i].high);
        return true;
    }
    return false;
}

static void take(submission *s, int option)
{
    if (take_number(s, option))
        return;
    switch (option) {
    case 'o': s->source.source.output = optarg; break;
    case SET: source_add_set(&s->source, optarg); break;
    case TIME: s->options.time = optarg; break;
    case 'p': s->options.partition = optarg; break;
    case 'A': s->options.account = optarg; break;
    case PREEMPTIBLE: s->options.preemptible = true; break;
    case SBATCH: add_sbatch(s, optarg); break;
    case SCRIPT: s->script = optarg; break;
    default: s->dry_run = true;
    }
}

static int print_script(const ks_submit_options *options)
{
    ks_error err = KS_ERROR_NONE;
    char *text = ks_submit_script(options, &err);
    if (!text)
        return complain("%s", err.text);
    return print_text(text);
}

static int write_and_submit(submission *s)
{
    ks_error err = KS_ERROR_NONE;
    char *made = s->script ? NULL : default_script(s->options.job.path);
    char *script = s->script ? s->script : made;
    int failed = ks_submit_write(&s->options, script, &err);
    int code = failed ? complain("%s", err.text) : run_sbatch(script);
    free(made);
    return code;
}

int command_submit(const command *self, int argc, char **argv)
{
    static const struct option names[] = {{"output", required_argument, NULL, 'o'},
                                          {"set", required_argument, NULL, SET},
                                          {"nodes", required_argument, NULL, 'N'},
                                          {"tasks-per-node", required_argument, NULL, TASKS},
                                          {"gpus-per-node", required_argument, NULL, GPUS},
                                          {"cpus-per-task", required_argument, NULL, CPUS},
                                          {"time", required_argument, NULL, TIME},
                                          {"partition", required_argument, NULL, 'p'},
                                          {"account", required_argument, NULL, 'A'},
                                          {"preemptible", no_argument, NULL, PREEMPTIBLE},
                                          {"sbatch", required_argument, NULL, SBATCH},
                                          {"script", required_argument, NULL, SCRIPT},
                                          {"dry-run", no_argument, NULL, DRY_RUN},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
    submission s = {0};
    for (int c; (c = next_option(self, argc, argv, ":o:N:p:A:h", names)) != -1;)
        take(&s, c);
    s.source.source.path = only_argument(self, argc, argv, "job file");
    s.options.job = s.source.source;
    int code = s.dry_run ? print_script(&s.options) : write_and_submit(&s);
    free(s.sbatch);
    free(s.source.sets);
    return code;
}
