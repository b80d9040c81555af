/* A small libnvidia-ml.so.1 of our own: what PowerFlow's NVIDIA path needs, and nothing behind it.
 *
 * The GPUs stand in a file that a test maps as well (FAKE_NVML_STATE): it sets what they draw and what they refuse, and
 * sees which clocks were locked. Joules are integrated here, watts times real time. Layout: fake_nvml.py. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
       DRIVER_NOT_LOADED = 9, TIMEOUT = 10 };
enum { MOST_GPUS = 8, CLOCKS = 81, MOST_PROCESSES = 4 };
enum { HANG_READING = 1, HANG_SETTING = 2, HANG_OPENING = 4 };

typedef struct {
    char uuid[96];
    char name[96];
    double power_w;      /* drawn now */
    double energy_mj;    /* joules * 1000 until energy_at_s */
    double energy_at_s;
    double counter_mod_mj; /* the counter wraps here; 0: never */
    double clock_mhz;    /* while free */
    double clock_cap_mhz; /* never above this, whatever it is locked to; 0: no cap */
    uint32_t locked_mhz; /* 0: free */
    uint32_t sets;       /* how often clocks were set or reset */
    uint32_t utilisation;
    uint32_t mig;        /* 0 off, 1 on, 2 not supported */
    int32_t every_error; /* what every call on it returns; 0: none */
    int32_t set_error;   /* what setting clocks returns */
    int32_t energy_error;
    int32_t power_error;
} Gpu;

/* More about each GPU, after all of them in the file, where the file is long enough; else 0 throughout. */
typedef struct {
    uint32_t pids[MOST_PROCESSES]; /* processes that compute on it; 0: none */
    uint32_t hangs;          /* HANG_READING, HANG_SETTING, HANG_OPENING: such calls do not return while it is set */
    uint32_t set_late_ms;    /* a clock that is asked for is taken so much later */
    uint32_t power_limit_mw; /* 0: its default */
    uint32_t pci_bus;        /* 0: by index */
    uint64_t throttled_by;   /* reasons, as nvml.h numbers them */
    uint64_t ecc_errors;     /* uncorrected, since the driver was loaded */
    uint64_t xid;            /* the last one */
    uint32_t xids;           /* how many there were */
    uint32_t late_mhz;       /* asked for, not taken yet */
    double late_s;           /* when it is taken */
    uint32_t default_limit_mw; /* 0: 400 W, which is the most then */
    uint32_t memory_mib;     /* 0: it does not tell */
    uint32_t clock_max_mhz;  /* 0: 1410; clocks are listed down from there */
    uint32_t compute_mode;   /* 2: prohibited */
    uint32_t gpm;            /* 1: it has performance counters */
    int32_t gpm_error;       /* what taking a sample of them returns */
    int32_t metrics_error;   /* what computing metrics from two samples returns */
    int32_t metric_error[3]; /* what single metrics return: SM_UTIL, ANY_TENSOR_UTIL, DRAM_BW_UTIL */
    uint32_t gpm_asked;      /* how often somebody asked for support, or for a sample */
    int32_t gpm_samples;     /* allocated and not freed, counted at the first GPU of all */
    double percent[3];       /* the metrics now */
    double counted[3];       /* percent times seconds until counted_at_s */
    double counted_at_s;
} More;

typedef struct {
    uint32_t count;
    int32_t init_error;
    Gpu gpu[MOST_GPUS];
    More more[MOST_GPUS];
} State;

static State *state;
static More nothing_more[MOST_GPUS];
static More *all_more = nothing_more;

static More *more(const Gpu *g) { return &all_more[g - state->gpu]; }

static unsigned most_mhz(const Gpu *g) { return more(g)->clock_max_mhz ? more(g)->clock_max_mhz : 1410; }
static unsigned default_mw(const Gpu *g) { return more(g)->default_limit_mw ? more(g)->default_limit_mw : 400000; }

static void hang(const Gpu *g, unsigned call) {
    while (more(g)->hangs & call) usleep(20000);
}

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    if (!state) {
        const char *path = getenv("FAKE_NVML_STATE");
        int file = path ? open(path, O_RDWR) : -1;
        if (file < 0) return DRIVER_NOT_LOADED;
        struct stat about;
        void *memory = mmap(0, sizeof(State), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        int known = fstat(file, &about);
        close(file);
        if (memory == MAP_FAILED || known != 0) return DRIVER_NOT_LOADED;
        state = memory;
        if ((size_t)about.st_size >= sizeof(State)) all_more = state->more;
    }
    return state->init_error;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int code) {
    switch (code) {
    case 3: return "Not Supported";
    case 4: return "Insufficient Permissions";
    case 9: return "Driver Not Loaded";
    case 10: return "Timeout";
    case 15: return "GPU is lost";
    default: return "an error of the fake NVML";
    }
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    if (!state) return UNINITIALIZED;
    *count = state->count;
    return SUCCESS;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Gpu **gpu) {
    if (!state) return UNINITIALIZED;
    if (index >= state->count) return INVALID_ARGUMENT;
    *gpu = &state->gpu[index];
    hang(*gpu, HANG_OPENING);
    return (*gpu)->every_error;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, Gpu **gpu) {
    if (!state) return UNINITIALIZED;
    for (unsigned i = 0; i < state->count; i++)
        if (!strcmp(state->gpu[i].uuid, uuid)) return *gpu = &state->gpu[i], state->gpu[i].every_error;
    return NOT_FOUND;
}
int nvmlDeviceGetIndex(Gpu *g, unsigned *index) { return *index = (unsigned)(g - state->gpu), g->every_error; }

static int text(const Gpu *g, const char *from, char *to, unsigned size) {
    if (strlen(from) >= size) return INSUFFICIENT_SIZE;
    strcpy(to, from);
    return g->every_error;
}
int nvmlDeviceGetUUID(Gpu *g, char *to, unsigned size) { return text(g, g->uuid, to, size); }
int nvmlDeviceGetName(Gpu *g, char *to, unsigned size) { return text(g, g->name, to, size); }

int nvmlDeviceGetTotalEnergyConsumption(Gpu *g, unsigned long long *mj) {
    double now = now_s();
    hang(g, HANG_READING);
    g->energy_mj += g->power_w * (now - g->energy_at_s) * 1e3;
    g->energy_at_s = now;
    while (g->counter_mod_mj > 0 && g->energy_mj >= g->counter_mod_mj) g->energy_mj -= g->counter_mod_mj;
    *mj = (unsigned long long)g->energy_mj;
    return g->every_error ? g->every_error : g->energy_error;
}
int nvmlDeviceGetPowerUsage(Gpu *g, unsigned *mw) {
    *mw = (unsigned)(g->power_w * 1e3);
    return g->every_error ? g->every_error : g->power_error;
}
int nvmlDeviceGetClockInfo(Gpu *g, unsigned type, unsigned *mhz) {
    if (more(g)->late_s > 0 && now_s() >= more(g)->late_s) g->locked_mhz = more(g)->late_mhz, more(g)->late_s = 0;
    double clock = g->locked_mhz ? g->locked_mhz : g->clock_mhz;
    if (type > 3) return INVALID_ARGUMENT;
    if (g->clock_cap_mhz > 0 && clock > g->clock_cap_mhz) clock = g->clock_cap_mhz;
    *mhz = (unsigned)clock;
    return g->every_error;
}
int nvmlDeviceGetUtilizationRates(Gpu *g, unsigned rates[2]) {
    rates[0] = g->utilisation;
    rates[1] = 0;
    return g->every_error;
}
int nvmlDeviceGetSupportedMemoryClocks(Gpu *g, unsigned *count, unsigned *mhz) {
    if (g->every_error) return g->every_error;
    if (*count < 2) return *count = 2, INSUFFICIENT_SIZE;
    mhz[0] = 1593, mhz[1] = 405;
    return SUCCESS;
}
int nvmlDeviceGetSupportedGraphicsClocks(Gpu *g, unsigned memory, unsigned *count, unsigned *mhz) {
    if (g->every_error) return g->every_error;
    if (memory != 1593) return NOT_FOUND;
    if (*count < CLOCKS) return *count = CLOCKS, INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < CLOCKS; i++) mhz[i] = most_mhz(g) - 15 * i;
    return SUCCESS;
}
int nvmlDeviceSetGpuLockedClocks(Gpu *g, unsigned least, unsigned most) {
    if (g->every_error) return g->every_error;
    if (g->set_error) return g->set_error;
    if (least > most || most < 210 || least > most_mhz(g)) return INVALID_ARGUMENT;
    hang(g, HANG_SETTING);
    g->sets++;
    if (more(g)->set_late_ms) {
        more(g)->late_mhz = most, more(g)->late_s = now_s() + 1e-3 * more(g)->set_late_ms;
        return SUCCESS;
    }
    g->locked_mhz = most;
    return SUCCESS;
}
int nvmlDeviceResetGpuLockedClocks(Gpu *g) {
    if (g->every_error) return g->every_error;
    if (g->set_error) return g->set_error;
    hang(g, HANG_SETTING);
    more(g)->late_s = 0;
    g->locked_mhz = 0;
    g->sets++;
    return SUCCESS;
}
int nvmlDeviceGetMigMode(Gpu *g, unsigned *current, unsigned *pending) {
    *current = *pending = g->mig;
    return g->every_error ? g->every_error : g->mig == 2 ? NOT_SUPPORTED : SUCCESS;
}

/* -- whether it is well, and who else is there -- */

int nvmlDeviceGetTotalEccErrors(Gpu *g, unsigned type, unsigned since, unsigned long long *errors) {
    (void)since;
    *errors = type == 1 ? more(g)->ecc_errors : 0;
    return g->every_error;
}
int nvmlDeviceGetCurrentClocksEventReasons(Gpu *g, unsigned long long *reasons) {
    *reasons = more(g)->throttled_by;
    return g->every_error;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(Gpu *g, unsigned long long *reasons) {
    return nvmlDeviceGetCurrentClocksEventReasons(g, reasons);
}
int nvmlDeviceGetEnforcedPowerLimit(Gpu *g, unsigned *mw) {
    *mw = more(g)->power_limit_mw ? more(g)->power_limit_mw : default_mw(g);
    return g->every_error;
}
int nvmlDeviceGetPowerManagementLimit(Gpu *g, unsigned *mw) { return nvmlDeviceGetEnforcedPowerLimit(g, mw); }
int nvmlDeviceGetPowerManagementDefaultLimit(Gpu *g, unsigned *mw) { return *mw = default_mw(g), g->every_error; }
int nvmlDeviceGetPowerManagementLimitConstraints(Gpu *g, unsigned *least, unsigned *most) {
    return *least = default_mw(g) / 4, *most = default_mw(g), g->every_error;
}

typedef struct {
    unsigned pid;
    unsigned long long memory;
    unsigned gpu_instance, compute_instance;
} Process;
int nvmlDeviceGetComputeRunningProcesses_v3(Gpu *g, unsigned *count, Process *found) {
    unsigned there = 0, room = *count;
    if (g->every_error) return g->every_error;
    for (unsigned i = 0; i < MOST_PROCESSES; i++) there += more(g)->pids[i] != 0;
    *count = there;
    if (there > room) return INSUFFICIENT_SIZE;
    for (unsigned i = 0, k = 0; i < MOST_PROCESSES; i++)
        if (more(g)->pids[i]) found[k++] = (Process){more(g)->pids[i], 1 << 20, ~0u, ~0u};
    return SUCCESS;
}

typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, pci_device, pci_subsystem;
    char bus_id[32];
} Pci;
int nvmlDeviceGetPciInfo_v3(Gpu *g, Pci *pci) {
    memset(pci, 0, sizeof(*pci));
    pci->bus = more(g)->pci_bus ? more(g)->pci_bus : 16 * (unsigned)(g - state->gpu + 1);
    snprintf(pci->bus_id, sizeof(pci->bus_id), "00000000:%02X:00.0", pci->bus);
    return g->every_error;
}

/* Events of one GPU per set; only Xids. */
typedef struct {
    Gpu *gpu;
    uint32_t told;
} Events;
typedef struct {
    Gpu *gpu;
    unsigned long long type, data;
    unsigned gpu_instance, compute_instance;
} Event;
int nvmlEventSetCreate(Events **set) { return (*set = calloc(1, sizeof(Events))) ? SUCCESS : 999; }
int nvmlEventSetFree(Events *set) { return free(set), SUCCESS; }
int nvmlDeviceRegisterEvents(Gpu *g, unsigned long long types, Events *set) {
    (void)types;
    set->gpu = g, set->told = more(g)->xids;
    return g->every_error;
}
int nvmlEventSetWait_v2(Events *set, Event *event, unsigned timeout_ms) {
    (void)timeout_ms;
    if (!set->gpu || set->told >= more(set->gpu)->xids) return TIMEOUT;
    set->told++;
    *event = (Event){set->gpu, 8, more(set->gpu)->xid, ~0u, ~0u};
    return SUCCESS;
}

/* -- performance counters (GPM) -- */

enum { METRICS = 3 };
static const unsigned metric_ids[METRICS] = {2, 5, 10}; /* SM_UTIL, ANY_TENSOR_UTIL, DRAM_BW_UTIL, as in nvml.h */

typedef struct {
    unsigned version, supported;
} GpmSupport;
typedef struct {
    const Gpu *gpu;
    double counted[METRICS], at_s;
} GpmSample;
typedef struct {
    unsigned id;
    int error;
    double value;
    const char *names_and_unit[3];
} GpmMetric;
typedef struct {
    unsigned version, wanted;
    GpmSample *older, *newer;
    GpmMetric metric[];
} GpmMetrics;

int nvmlGpmQueryDeviceSupport(Gpu *g, GpmSupport *support) {
    if (support->version != 1) return 25;
    more(g)->gpm_asked++;
    return support->supported = more(g)->gpm, g->every_error;
}
int nvmlGpmSampleAlloc(GpmSample **sample) {
    all_more[0].gpm_samples++;
    return (*sample = calloc(1, sizeof(GpmSample))) ? SUCCESS : 999;
}
int nvmlGpmSampleFree(GpmSample *sample) {
    all_more[0].gpm_samples--;
    return free(sample), SUCCESS;
}
int nvmlGpmSampleGet(Gpu *g, GpmSample *sample) {
    More *m = more(g);
    double now = now_s(), passed_s = m->counted_at_s > 0 ? now - m->counted_at_s : 0;
    m->gpm_asked++;
    if (g->every_error) return g->every_error;
    if (!m->gpm) return NOT_SUPPORTED;
    if (m->gpm_error) return m->gpm_error;
    for (int i = 0; i < METRICS; i++) sample->counted[i] = m->counted[i] += m->percent[i] * passed_s;
    sample->gpu = g, sample->at_s = m->counted_at_s = now;
    return SUCCESS;
}
int nvmlGpmMetricsGet(GpmMetrics *all) {
    const GpmSample *older = all->older, *newer = all->newer;
    if (all->version != 1) return 25;
    if (!older || !newer || !older->gpu || older->gpu != newer->gpu) return INVALID_ARGUMENT;
    if (more(older->gpu)->metrics_error) return more(older->gpu)->metrics_error;
    double passed_s = newer->at_s - older->at_s;
    for (unsigned k = 0; k < all->wanted; k++) {
        GpmMetric *metric = &all->metric[k];
        metric->error = NOT_SUPPORTED, metric->value = 0;
        for (int i = 0; i < METRICS; i++)
            if (metric->id == metric_ids[i]) {
                metric->error = more(older->gpu)->metric_error[i];
                /* the counters are renewed every 0.1 s: samples that are closer say nothing */
                if (!metric->error && passed_s > 0.1) metric->value = (newer->counted[i] - older->counted[i]) / passed_s;
            }
    }
    return SUCCESS;
}

/* -- what it is -- */

int nvmlDeviceGetMaxClockInfo(Gpu *g, unsigned type, unsigned *mhz) {
    return type > 3 ? INVALID_ARGUMENT : (*mhz = most_mhz(g), g->every_error);
}
int nvmlDeviceGetMemoryInfo(Gpu *g, unsigned long long total_free_used[3]) {
    if (!more(g)->memory_mib) return NOT_SUPPORTED;
    total_free_used[0] = total_free_used[1] = (unsigned long long)more(g)->memory_mib << 20;
    total_free_used[2] = 0;
    return g->every_error;
}
int nvmlDeviceGetComputeMode(Gpu *g, unsigned *mode) { return *mode = more(g)->compute_mode, g->every_error; }
