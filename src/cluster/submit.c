/* ksweep submit: the batch script that renders a job on a Slurm cluster. Its body is that of
 * slurm/many-nodes.sbatch or slurm/preemptible.sbatch, taken over by CMake; the lines of #SBATCH
 * and the variables above it are made here. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "cluster/load.h"
#include "cluster/replica.h"
#include "cluster/setup.h"
#include "cluster/target.h"
#include "cluster/text.h"
#include "ksweep/ksweep.h"
#include "ksweep_slurm.h"

#define FIRST_LINE                                                                                 \
    "#!/bin/bash\n# Made by ksweep submit, which writes it anew; under another name it is yours "  \
    "to change.\n"

/* Paths are from the root, as the script may be submitted from anywhere. */
typedef struct script {
    const ks_submit_options *options;
    char *job, *program;
    char *output;    /* NULL: the job's own */
    int64_t seconds; /* the time limit; 0: the partition's */
    int nodes, tasks; /* tasks of each node */
    int replica;      /* tasks that have one model */
} script;

/* The times that sbatch reads, a letter for each number, and the seconds that the numbers count. */
static const struct {
    const char *shape;
    int seconds[4];
} times[] = {
    {"n", {60}},
    {"n:n", {60, 1}},
    {"n:n:n", {3600, 60, 1}},
    {"n-n", {86400, 3600}},
    {"n-n:n", {86400, 3600, 60}},
    {"n-n:n:n", {86400, 3600, 60, 1}},
};

/* Seconds of a time limit. */
static int parse_time(const char *text, int64_t *seconds, ks_error *err)
{
    enum { NUMBERS = 4, LARGEST = 10000000 };
    char shape[2 * NUMBERS + 1] = "";
    int64_t number[NUMBERS] = {0};
    const char *at = text;
    int count = 0;
    for (size_t i = 0; *at && i < sizeof shape - 1; i++) {
        bool digit = isdigit((unsigned char)*at) && count < NUMBERS;
        char *end = (char *)at + 1;
        if (digit && (number[count++] = strtoll(at, &end, 10)) > LARGEST)
            break;
        shape[i] = digit ? 'n' : *at;
        at = end;
    }
    *seconds = 0;
    for (size_t k = 0; k < sizeof times / sizeof *times; k++) {
        for (int i = 0; !*at && i < count && !strcmp(shape, times[k].shape); i++)
            *seconds += number[i] * times[k].seconds[i];
    }
    if (*seconds)
        return 0;
    return ks_error_set(err,
                        "--time: \"%s\" is no time limit; 90 (minutes), 4:00:00 or 2-12 "
                        "(days-hours) would be right",
                        text);
}

/* Names of partitions and accounts go into the script as they are. */
static int check_name(const char *option, const char *name, ks_error *err)
{
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.,+@:";
    if (!name || (name[0] && name[0] != '-' && !name[strspn(name, letters)]))
        return 0;
    return ks_error_set(err,
                        "%s: \"%s\" is no name that Slurm could have; letters, digits, and _ - . , "
                        "+ @ : would be right",
                        option, name);
}

/* Whether a line of --sbatch is --array, as sbatch reads it: it takes names cut short, and -a. */
static bool is_array(const char *text)
{
    size_t name = strcspn(text, "= \t");
    return (text[0] == '-' && text[1] == 'a') || (name >= strlen("--ar") && !strncmp(text, "--array", name));
}

/* Options of sbatch go into the script as they are. The tasks of an array would all render the whole job into one output. */
static int check_sbatch(const char *text, ks_error *err)
{
    if (text[0] != '-' || strchr(text, '\n'))
        return ks_error_set(
            err, "--sbatch: \"%s\" is no option of sbatch; --sbatch=--mem=64G would be one", text);
    if (is_array(text))
        return ks_error_set(err,
                            "--sbatch: \"%s\": this script's tasks would refuse each other the output; "
                            "slurm/array.sbatch is the script for an array, each task of which "
                            "renders a part (--shard)",
                            text);
    return 0;
}

static int check_options(const ks_submit_options *o, int64_t *seconds, ks_error *err)
{
    if (check_name("--partition", o->partition, err) || check_name("--account", o->account, err))
        return -1;
    for (int i = 0; i < o->sbatch_count; i++) {
        if (check_sbatch(o->sbatch[i], err))
            return -1;
    }
    return o->time ? parse_time(o->time, seconds, err) : 0;
}

/* A task a GPU; without GPUs a node gets as many as have one model. */
static int count_tasks(script *s, const ks_job *job, ks_error *err)
{
    const ks_submit_options *o = s->options;
    s->replica = ks_replica_size(job);
    s->nodes = o->nodes ? o->nodes : 1;
    s->tasks = o->tasks_per_node ? o->tasks_per_node : o->gpus_per_node ? o->gpus_per_node : s->replica;
    if ((int64_t)s->nodes * s->tasks % s->replica)
        return ks_error_set(err, "%s: parallel: one model is on %d tasks (tensor %d, rows %d), and %d node%s of %d task%s make no multiple "
                            "of that: other --nodes, --gpus-per-node or --tasks-per-node would be right", job->path, s->replica,
                            job->tensor, job->rows, s->nodes, s->nodes == 1 ? "" : "s", s->tasks, s->tasks == 1 ? "" : "s");
    if (s->tasks % s->replica)
        ks_log_info("the %d tasks that have one model are on several nodes, whose network carries what they share", s->replica);
    return 0;
}

/* What would stop the run at its start is found before it waits in a queue. for_good: where the output goes must be there too; a look
 * at a script does not need it. */
static int check_job(script *s, bool for_good, ks_error *err)
{
    const ks_job_source *source = &s->options->job;
    ks_setup setup = {0};
    ks_store_info *old = NULL;
    ks_job *job = ks_job_from_source(source, err);
    int rc = job ? ks_setup_open(&setup, job, err) : -1;
    if (!rc)
        rc = count_tasks(s, setup.job, err);
    if (!rc && for_good)
        rc = ks_target_open(&setup, NULL, &old, err);
    ks_store_info_free(old);
    if (!rc && source->output)
        s->output = ks_strdup(setup.job->output);
    ks_setup_close(&setup);
    return rc;
}

/* The path from the root; links stay, as what a job names is relative to the folder that it was
 * named in. */
static char *from_root(const char *path, ks_error *err)
{
    if (path[0] == '/')
        return ks_strdup(path);
    char *here = getcwd(NULL, 0);
    char *whole = here ? ks_format("%s/%s", here, path) : NULL;
    if (!here)
        ks_error_set(err, "the current folder cannot be found: %s", strerror(errno));
    free(here);
    return whole;
}

static char *own_program(ks_error *err)
{
    char *path = realpath("/proc/self/exe", NULL);
    if (!path)
        ks_error_set(err, "the path of this program cannot be found: %s", strerror(errno));
    return path;
}

static int open_script(script *s, const ks_submit_options *options, bool for_good, ks_error *err)
{
    *s = (script){.options = options};
    if (check_options(options, &s->seconds, err) || check_job(s, for_good, err))
        return -1;
    s->job = from_root(options->job.path, err);
    if (s->job)
        s->program = options->program ? from_root(options->program, err) : own_program(err);
    return s->program ? 0 : -1;
}

static void close_script(script *s)
{
    free(s->job);
    free(s->program);
    free(s->output);
}

/* A word of the shell, quoted where it must be. */
static void add_word(ks_text *text, const char *word)
{
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.,+@:/=%";
    if (word[0] && !word[strspn(word, plain)]) {
        ks_text_add(text, "%s", word);
        return;
    }
    ks_text_add(text, "'");
    for (; *word; word++)
        ks_text_add(text, *word == '\'' ? "'\\''" : "%c", *word);
    ks_text_add(text, "'");
}

/* The job file's name without its ending, in letters that are plain to sbatch. */
static void add_job_name(ks_text *text, const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path,
               *dot = strrchr(name, '.');
    size_t length = dot && dot > name ? (size_t)(dot - name) : strlen(name);
    ks_text_add(text, "#SBATCH --job-name=");
    for (size_t i = 0; i < length; i++)
        ks_text_add(text, "%c",
                    isalnum((unsigned char)name[i]) || strchr("._-", name[i]) ? name[i] : '_');
    ks_text_add(text, "\n");
}

/* USR1 comes two minutes before the time limit, and not in the first three quarters of a short one.
 */
static void add_requeue(ks_text *text, int64_t seconds)
{
    enum { WARNING = 120 };
    int64_t warning = seconds && seconds / 4 < WARNING ? seconds / 4 : WARNING;
    ks_text_add(text,
                "#SBATCH --open-mode=append\n#SBATCH --requeue\n#SBATCH --signal=B:USR1@%lld\n",
                (long long)warning);
}

static void add_line(ks_text *text, const char *option, const char *value)
{
    if (value)
        ks_text_add(text, "#SBATCH --%s=%s\n", option, value);
}

static void add_number(ks_text *text, const char *option, int value)
{
    if (value)
        ks_text_add(text, "#SBATCH --%s=%d\n", option, value);
}

static void add_directives(ks_text *text, const script *s)
{
    const ks_submit_options *o = s->options;
    add_job_name(text, s->job);
    add_line(text, "output", "%x-%j.log");
    if (o->preemptible)
        add_requeue(text, s->seconds);
    add_number(text, "nodes", s->nodes);
    add_number(text, "ntasks-per-node", s->tasks);
    if (s->replica > 1)
        add_line(text, "distribution", "block"); /* those that have one model follow each other */
    add_number(text, "gpus-per-node", o->gpus_per_node);
    add_number(text, "cpus-per-task", o->cpus_per_task);
    if (!o->gpus_per_node && !o->cpus_per_task)
        ks_text_add(text, "#SBATCH --exclusive\n");
    add_line(text, "time", o->time);
    add_line(text, "partition", o->partition);
    add_line(text, "account", o->account);
    for (int i = 0; i < o->sbatch_count; i++)
        ks_text_add(text, "#SBATCH %s\n", o->sbatch[i]);
}

static void add_variables(ks_text *text, const script *s)
{
    const ks_job_source *source = &s->options->job;
    ks_text_add(text, "\nJOB=");
    add_word(text, s->job);
    ks_text_add(text, "\nOPTIONS=(");
    if (s->output) {
        ks_text_add(text, "-o ");
        add_word(text, s->output);
    }
    for (int i = 0; i < source->set_count; i++) {
        ks_text_add(text, "%s--set ", i || s->output ? " " : "");
        add_word(text, source->sets[i]);
    }
    ks_text_add(text, ")\nKSWEEP=${KSWEEP:-");
    add_word(text, s->program);
    ks_text_add(text, "}\nLAUNCH=${LAUNCH:-}\n\n");
}

static char *make_script(const ks_submit_options *options, bool for_good, ks_error *err)
{
    script s;
    ks_text text = {0};
    if (!open_script(&s, options, for_good, err)) {
        ks_text_add(&text, FIRST_LINE);
        add_directives(&text, &s);
        add_variables(&text, &s);
        ks_text_add(&text, "%s", options->preemptible ? KS_SLURM_PREEMPTIBLE : KS_SLURM_MANY_NODES);
    }
    close_script(&s);
    return text.bytes;
}

char *ks_submit_script(const ks_submit_options *options, ks_error *err)
{
    return make_script(options, false, err);
}

/* A file of this name that somebody has made or changed stays as it is. */
static int check_own(const char *path, ks_error *err)
{
    struct stat status;
    if (stat(path, &status)) /* writing says why where there is more to it */
        return 0;
    if (ks_file_begins(path, FIRST_LINE, sizeof FIRST_LINE - 1))
        return 0;
    return ks_error_set(
        err, "%s is there and was not made by ksweep submit: name another file with --script",
        path);
}

int ks_submit_write(const ks_submit_options *options, const char *path, ks_error *err)
{
    char *text = make_script(options, true, err);
    int rc = text ? check_own(path, err) : -1;
    FILE *f = rc ? NULL : fopen(path, "w");
    if (f) {
        bool written = fputs(text, f) >= 0;
        if (fclose(f) || !written)
            rc = ks_error_set(err, "%s: cannot be written: %s", path, strerror(errno));
    } else if (!rc) {
        rc = ks_error_set(err, "%s: cannot be written: %s", path, strerror(errno));
    }
    free(text);
    return rc;
}
