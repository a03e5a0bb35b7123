#include "fs/mount/rules.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "fs/mount/keep.h"
#include "fs/mount/prefetch.h"
#include "fs/mount/reply.h"
#include "fs/mount/session.h"

#define AGAIN_MS 1000 /* after a fetch that failed, or that came without a lease */

/* The policy of one directory, as heard last. */
struct policy {
	UT_hash_handle hh; /* by inode */
	struct inode *inode; /* with a use */
	struct rules *rules; /* NULL: none, or its text makes no sense */
	char *text;          /* `length` bytes and a zero; NULL: none */
	size_t length;
	uint64_t instance;   /* of the lease under which it was learned; 0: it may be another by now */
	bool kept;           /* fetched again when it is recalled even while there is none */
	bool wanted;         /* it is to be fetched */
	bool fetching;
	struct instant again_at; /* not before */
};

/* A directory between the export's root and the mount's, from the top. */
struct above {
	struct handle handle;
	uint32_t mode;
	size_t path_at; /* where the rest of the path begins, in m->subdirectory */
};

struct rules_state {
	struct policy *policies;
	struct rules *mount; /* that of --policy */
	uint32_t sets;       /* attributes that any of them sets, a bit each */
	unsigned whens;      /* RULES_ON_* that any of them has */
	bool any;            /* there is any */
	bool full, said;     /* there were too many; it is in the log */
	bool kept;           /* rules_keeps() was true at `looked_at` */
	uint64_t looked_at;  /* the serial at which all files were looked at: keep.h */
	atomic_uint_fast64_t serial;
	struct above above[RULES_DEPTH_MAX];
	struct inode *above_inodes[RULES_DEPTH_MAX];
	uint32_t above_count;
	pthread_t thread;
	bool started, stopping;
	pthread_cond_t changed; /* with mount->lock */
};

/* ---- the policies ---- */

static struct policy *policy_of(struct rules_state *s, const struct inode *inode)
{
	struct policy *policy = NULL;

	HASH_FIND_PTR(s->policies, &inode, policy);
	return policy;
}

static struct policy *policy_add(struct mount *m, struct inode *inode)
{
	struct rules_state *s = m->rules;
	bool full = HASH_COUNT(s->policies) >= RULES_DIRECTORY_COUNT_MAX;
	struct policy *policy = full ? NULL : calloc(1, sizeof(*policy));

	if (full && !s->full) {
		s->full = true;
		pthread_cond_signal(&s->changed);
	}
	if (!policy)
		return NULL;
	inode_use(m, inode);
	policy->inode = inode;
	HASH_ADD_PTR(s->policies, inode, policy);
	return policy;
}

static void policy_remove(struct mount *m, struct policy *policy)
{
	HASH_DEL(m->rules->policies, policy);
	inode_unuse(m, policy->inode);
	rules_destroy(policy->rules);
	free(policy->text);
	free(policy);
}

static void want(struct rules_state *s, struct policy *policy)
{
	if (policy->wanted)
		return;
	policy->wanted = true;
	pthread_cond_signal(&s->changed);
}

static void count_what_is_set(struct mount *m)
{
	struct rules_state *s = m->rules;
	struct policy *policy, *next;

	s->sets = 0;
	s->whens = s->mount ? rules_whens(s->mount) : 0;
	s->any = s->mount != NULL;
	for (unsigned a = 0; s->mount && a < RULES_ATTRIBUTE_COUNT; a++)
		s->sets |= (uint32_t)rules_sets(s->mount, a) << a;
	HASH_ITER(hh, s->policies, policy, next) {
		s->any |= policy->rules != NULL;
		s->whens |= policy->rules ? rules_whens(policy->rules) : 0;
		for (unsigned a = 0; policy->rules && a < RULES_ATTRIBUTE_COUNT; a++)
			s->sets |= (uint32_t)rules_sets(policy->rules, a) << a;
	}
	atomic_fetch_add(&s->serial, 1);
	prefetch_policies(m);
}

/* A text and what it means, made without the lock. */
struct news {
	struct rules *rules;
	char *text;
	size_t length;
};

static void news_make(struct mount *m, const struct inode *inode, struct slice text,
		      struct news *ret_news)
{
	struct rules_error error;
	int r;

	*ret_news = (struct news){ 0 };
	if (text.length == 0)
		return;
	ret_news->text = malloc(text.length + 1);
	if (!ret_news->text)
		return;
	memcpy(ret_news->text, text.data, text.length);
	ret_news->text[text.length] = '\0';
	ret_news->length = text.length;
	r = rules_compile(&session_allocator, text, &ret_news->rules, &error);
	/* The origin lets none be set: it was set in the exported directory, or by another version. */
	if (r == -EINVAL)
		mount_log("warning", "%s: the policy of the directory with nodeid %" PRIu64
			  " says nothing here: line %u, column %u: %s", m->options->mountpoint,
			  inode->nodeid, error.line, error.column, error.text);
}

static void news_finish(struct news *news)
{
	rules_destroy(news->rules);
	free(news->text);
}

/* `policy` is gone if it says nothing and nobody keeps it. What `news` had is taken. */
static void install(struct mount *m, struct policy *policy, struct news *news, uint64_t instance)
{
	bool same = policy->length == news->length && (!policy->rules == !news->rules) &&
		    (policy->length == 0 || memcmp(policy->text, news->text, news->length) == 0);

	policy->instance = instance;
	policy->again_at = instant_add(mount_now(), duration_ms(AGAIN_MS));
	if (!same) {
		rules_destroy(policy->rules);
		free(policy->text);
		policy->rules = news->rules;
		policy->text = news->text;
		policy->length = news->length;
		*news = (struct news){ 0 };
	}
	if (policy->length == 0 && !policy->kept && !policy->wanted)
		policy_remove(m, policy);
	if (!same)
		count_what_is_set(m);
}

/* ---- fetching them ---- */

static void fetched(struct mount *m, struct call *call)
{
	int error = call->status == STATUS_OK ? 0 : call_errno(call);
	struct rules_state *s = m->rules;
	struct keep_lines lines;
	struct policy *policy;
	struct answer answer;
	struct news news;
	bool known = false;

	news_make(m, call->inode, error ? (struct slice){ NULL, 0 } : call->data, &news);
	keep_lines_make(m, INODE_HANDLE(call->inode), news.rules, &lines);
	pthread_mutex_lock(&m->lock);
	answer_work_in(m, call, NULL, NULL, &answer);
	policy = policy_of(s, call->inode);
	if (policy) {
		policy->fetching = false;
		if (!error || error == ENODATA || error == EOPNOTSUPP) {
			install(m, policy, &news, answer.nodes[NODE_TARGET].instance);
			known = true;
		} else if (error == ESTALE && !policy->kept) {
			policy_remove(m, policy);
			count_what_is_set(m);
			known = true;
		} else {
			policy->again_at = instant_add(mount_now(), duration_ms(AGAIN_MS));
			policy->wanted = true;
		}
	}
	pthread_cond_signal(&s->changed);
	pthread_mutex_unlock(&m->lock);
	answer_done(m, &answer);
	if (known)
		keep_lines_stand(m, &lines);
	keep_lines_finish(&lines);
	news_finish(&news);
	call_destroy(m, call);
}

/* Without the lock; with a use of the inode, which it takes over. */
static void fetch(struct mount *m, struct inode *inode)
{
	struct call *call = call_new(m, NULL, MESSAGE_getxattr);
	struct policy *policy;

	if (call) {
		call_set_inode(m, call, inode);
		call->message.getxattr.handle = inode_handle(inode);
		call->message.getxattr.name = call_name(call, 0, POLICY_XATTR);
		call->message.getxattr.size = XATTR_BYTES_MAX;
		call_send(m, call, fetched);
	}
	pthread_mutex_lock(&m->lock);
	policy = call ? NULL : policy_of(m->rules, inode);
	if (policy) {
		policy->fetching = false;
		policy->wanted = true;
		policy->again_at = instant_add(mount_now(), duration_ms(AGAIN_MS));
	}
	inode_unuse(m, inode);
	pthread_mutex_unlock(&m->lock);
}

/*
 * The next that is to be fetched now; NULL: none is. So is one whose lease ended without a recall, with the
 * session, or never was: nobody would tell of a change.
 */
static struct policy *next_wanted(struct mount *m, struct instant now)
{
	bool connected = holder_remaining(m->holder, now).ns > 0;
	struct policy *policy, *next;

	HASH_ITER(hh, m->rules->policies, policy, next) {
		if (policy->fetching || instant_before(now, policy->again_at))
			continue;
		if (policy->wanted ||
		    (connected && (!policy->instance ||
				   holder_lease(m->holder, now, INODE_HANDLE(policy->inode)) !=
					   policy->instance)))
			return policy;
	}
	return NULL;
}

static void wait_a_second(struct mount *m)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	at.tv_sec += AGAIN_MS / 1000;
	(void)pthread_cond_timedwait(&m->rules->changed, &m->lock, &at);
}

static void *run(void *context)
{
	struct mount *m = context;
	struct rules_state *s = m->rules;

	pthread_mutex_lock(&m->lock);
	while (!s->stopping) {
		struct policy *policy = next_wanted(m, mount_now());
		struct inode *inode;

		if (s->full && !s->said) {
			s->said = true;
			pthread_mutex_unlock(&m->lock);
			mount_log("warning", "more than %d directories have a policy; that of the "
				  "others says nothing here", RULES_DIRECTORY_COUNT_MAX);
			pthread_mutex_lock(&m->lock);
			continue;
		}
		if (!policy && s->looked_at != rules_serial(m)) {
			bool keeps = rules_keeps(m) || s->kept;

			s->looked_at = rules_serial(m);
			s->kept = rules_keeps(m);
			pthread_mutex_unlock(&m->lock);
			if (keeps)
				keep_look_at_all(m);
			pthread_mutex_lock(&m->lock);
			continue;
		}
		if (!policy) {
			wait_a_second(m);
			continue;
		}
		policy->wanted = false;
		policy->fetching = true;
		inode = policy->inode;
		inode_use(m, inode);
		pthread_mutex_unlock(&m->lock);
		fetch(m, inode);
		pthread_mutex_lock(&m->lock);
	}
	pthread_mutex_unlock(&m->lock);
	return NULL;
}

void rules_heard(struct mount *m, struct inode *inode)
{
	struct rules_state *s = m->rules;
	bool has = (inode_heard_mode(m, inode) & MARK_POLICY) != 0;
	struct policy *policy;

	if (!s || !S_ISDIR(inode->type) || (!has && !s->policies))
		return;
	policy = policy_of(s, inode);
	if (!policy && !has)
		return;
	if (!policy) {
		policy = policy_add(m, inode);
		if (policy)
			want(s, policy);
		return;
	}
	if (policy->fetching || policy->wanted)
		return;
	if (inode->attributes_instance != 0 && policy->instance == inode->attributes_instance &&
	    has == (policy->length > 0))
		return;
	/* Of what others modify all the time it is asked once a second, not with every answer. */
	if (!instant_before(mount_now(), policy->again_at) || inode->attributes_instance != 0)
		want(s, policy);
}

void rules_recalled(struct mount *m, struct inode *inode)
{
	struct rules_state *s = m->rules;
	struct policy *policy = s && s->policies ? policy_of(s, inode) : NULL;

	if (!policy)
		return;
	policy->instance = 0;
	policy->again_at = (struct instant){ 0 };
	want(s, policy);
}

void rules_changed(struct mount *m, struct inode *inode, struct slice text)
{
	struct keep_lines lines;
	struct policy *policy;
	struct news news;

	news_make(m, inode, text, &news);
	keep_lines_make(m, INODE_HANDLE(inode), news.rules, &lines);
	pthread_mutex_lock(&m->lock);
	policy = policy_of(m->rules, inode);
	if (!policy && text.length > 0)
		policy = policy_add(m, inode);
	if (policy) {
		install(m, policy, &news, 0);
		/* Another change may have been faster than the answer: ask, too. */
		policy = policy_of(m->rules, inode);
		if (policy) {
			policy->again_at = (struct instant){ 0 };
			want(m->rules, policy);
		}
	}
	pthread_mutex_unlock(&m->lock);
	keep_lines_stand(m, &lines);
	news_finish(&news);
}

/* ---- what they say ---- */

/* A path from the export's root, and the directories on it that are known here. */
struct way {
	char bytes[RULES_PATH_BYTES_MAX];
	size_t at;  /* it is at the end of `bytes` */
	size_t root_at; /* where what is below the mount's root begins */
	bool is_directory;
	uint32_t count;
	struct place {
		const struct inode *directory;
		size_t at; /* what is below it begins here; the end: it is itself what is asked for */
	} places[RULES_DEPTH_MAX + 2]; /* from the bottom */
};

static bool way_prepend(struct way *w, const char *name, size_t length)
{
	bool slash = w->at < sizeof(w->bytes);

	if (length == 0)
		return true;
	if (w->at < length + slash)
		return false;
	if (slash)
		w->bytes[--w->at] = '/';
	w->at -= length;
	memcpy(w->bytes + w->at, name, length);
	return true;
}

static bool way_place(struct way *w, const struct inode *directory)
{
	if (w->count >= RULES_DEPTH_MAX)
		return false;
	w->places[w->count++] = (struct place){ directory, w->at };
	return true;
}

/* The mount's root is at the top; the export's may be above it. */
static bool way_above(struct mount *m, struct way *w)
{
	const struct rules_state *s = m->rules;
	const char *text = m->subdirectory ? m->subdirectory : "";
	size_t end = strlen(text);

	w->root_at = w->at;
	for (uint32_t i = s->above_count; i-- > 0;) {
		size_t start = s->above[i].path_at, length;

		while (end > start && text[end - 1] == '/')
			end--;
		while (text[start] == '/')
			start++;
		length = end > start ? end - start : 0;
		end = s->above[i].path_at;
		if (!way_prepend(w, text + start, length) ||
		    !way_place(w, s->above_inodes[i]))
			return false;
	}
	return true;
}

/* The way to `inode`, or to `name` in it. False: it is not known whole, or too long. */
static bool way_find(struct mount *m, const struct inode *inode, struct slice name,
		     bool is_directory, struct way *w)
{
	w->at = sizeof(w->bytes);
	w->count = 0;
	w->is_directory = is_directory;
	if (name.length > 0 && !way_prepend(w, (const char *)name.data, name.length))
		return false;
	if (S_ISDIR(inode->type) && !way_place(w, inode))
		return false;
	while (inode->nodeid != FUSE_ROOT_ID) {
		const struct name_entry *entry = inode_name(inode);

		if (!entry || !way_prepend(w, entry->name, entry->length) ||
		    !way_place(w, entry->directory))
			return false;
		inode = entry->directory;
	}
	return way_above(m, w);
}

static struct slice way_from(const struct way *w, size_t at)
{
	return (struct slice){ (const uint8_t *)w->bytes + at, sizeof(w->bytes) - at };
}

/* `rules_at`, unless NULL: whose each layer is. */
static void way_match(struct mount *m, const struct way *w, struct rules_attributes *a,
		      const struct rules **rules_at)
{
	struct rules_state *s = m->rules;

	for (uint32_t i = w->count; i-- > 0;) {
		struct policy *policy = policy_of(s, w->places[i].directory);
		uint8_t layer = (uint8_t)(w->count - 1 - i);

		if (!policy || !policy->rules)
			continue;
		rules_match(policy->rules, way_from(w, w->places[i].at), w->is_directory, layer, a);
		if (rules_at)
			rules_at[layer] = policy->rules;
	}
	a->steps = RULES_STEPS_MAX; /* whatever the others took */
	if (s->mount)
		rules_match(s->mount, way_from(w, w->root_at), w->is_directory, RULES_LAYER_MOUNT, a);
	if (rules_at)
		rules_at[RULES_LAYER_MOUNT] = s->mount;
}

static bool say(struct mount *m, const struct inode *inode, struct slice name, bool is_directory,
		struct rules_attributes *ret_attributes)
{
	struct way w;

	rules_attributes_init(ret_attributes);
	if (!m->rules || !m->rules->any)
		return true;
	if (!way_find(m, inode, name, is_directory, &w))
		return false;
	way_match(m, &w, ret_attributes, NULL);
	return true;
}

uint64_t rules_bandwidth(struct mount *m, const struct inode *inode, struct slice name, uint64_t *ret_key)
{
	struct rules_attributes a;
	struct way w;
	uint8_t layer;

	*ret_key = 0;
	rules_attributes_init(&a);
	if (!rules_set(m, RULES_BANDWIDTH, RULES_BANDWIDTH) || !way_find(m, inode, name, false, &w))
		return RULES_ALL;
	way_match(m, &w, &a, NULL);
	layer = a.layers[RULES_BANDWIDTH];
	if (layer != RULES_LAYER_NONE && layer != RULES_LAYER_MOUNT)
		*ret_key = w.places[w.count - 1 - layer].directory->nodeid;
	*ret_key = *ret_key * RULES_TEXT_BYTES_MAX + a.lines[RULES_BANDWIDTH];
	return a.values[RULES_BANDWIDTH];
}

bool rules_of(struct mount *m, const struct inode *inode, struct rules_attributes *ret_attributes)
{
	return say(m, inode, (struct slice){ NULL, 0 }, S_ISDIR(inode->type), ret_attributes);
}

bool rules_of_name(struct mount *m, const struct inode *directory, struct slice name,
		   bool is_directory, struct rules_attributes *ret_attributes)
{
	return say(m, directory, name, is_directory, ret_attributes);
}

bool rules_keeps(const struct mount *m)
{
	return rules_set(m, RULES_PIN, RULES_TTL) || rules_set(m, RULES_QUOTA, RULES_ADMIT);
}

static void origin_of(const struct way *w, const struct rules *const *rules_at,
		      const struct rules_attributes *a, enum rules_attribute attribute,
		      struct rules_origin *ret_origin)
{
	unsigned layer = a->layers[attribute];
	uint32_t i = 0;

	*ret_origin = (struct rules_origin){ 0 };
	if (layer == RULES_LAYER_NONE || !rules_at[layer])
		return;
	while (i < rules_count(rules_at[layer]) &&
	       rules_line(rules_at[layer], i, NULL, NULL) != a->lines[attribute])
		i++;
	ret_origin->rules = rules_at[layer];
	ret_origin->index = i;
	if (layer != RULES_LAYER_MOUNT)
		ret_origin->directory = w->places[w->count - 1 - layer].directory;
}

bool rules_of_lines(struct mount *m, const struct inode *inode,
		    struct rules_attributes *ret_attributes, struct rules_origin *ret_pin,
		    struct rules_origin *ret_quota)
{
	const struct rules *rules_at[UINT8_MAX + 1] = { NULL };
	struct way w;

	rules_attributes_init(ret_attributes);
	if (!way_find(m, inode, (struct slice){ NULL, 0 }, S_ISDIR(inode->type), &w))
		return false;
	way_match(m, &w, ret_attributes, rules_at);
	origin_of(&w, rules_at, ret_attributes, RULES_PIN, ret_pin);
	origin_of(&w, rules_at, ret_attributes, RULES_QUOTA, ret_quota);
	return true;
}

bool rules_stopping(const struct mount *m)
{
	return !m->rules || m->rules->stopping;
}

uint64_t rules_value(struct mount *m, const struct inode *inode, enum rules_attribute attribute)
{
	struct rules_attributes a;

	if (m->rules && (m->rules->sets & 1u << attribute))
		(void)rules_of(m, inode, &a);
	else
		rules_attributes_init(&a);
	return a.values[attribute];
}

uint64_t rules_read_ahead(struct mount *m, const struct inode *inode)
{
	uint64_t bytes, amount;
	struct rules_attributes a;

	if (!rules_set(m, RULES_READAHEAD, RULES_READAHEAD) && !rules_limit_guesses(m))
		return m->options->read_ahead;
	(void)rules_of(m, inode, &a);
	bytes = a.values[RULES_READAHEAD];
	amount = rules_amount(&a);
	if (amount == RULES_AMOUNT_OFF || amount == RULES_AMOUNT_METADATA)
		return 0;
	return bytes == RULES_ALL ? m->options->read_ahead : bytes;
}

enum rules_disconnected rules_disconnected(struct mount *m, const struct inode *inode)
{
	const char *option = m->options->disconnected;
	uint64_t value = m->rules ? rules_value(m, inode, RULES_DISCONNECTED) : RULES_DISCONNECTED_MOUNT;

	if (value != RULES_DISCONNECTED_MOUNT)
		return (enum rules_disconnected)value;
	return strcmp(option, "fail") == 0  ? RULES_DISCONNECTED_FAIL :
	       strcmp(option, "stale") == 0 ? RULES_DISCONNECTED_STALE :
					      RULES_DISCONNECTED_WAIT;
}

/* What is said of the name that a lookup is for. False: it is none, nothing is set, or it is not known. */
static bool said_of_lookup(struct mount *m, const struct call *call, enum rules_attribute attribute,
			   struct rules_attributes *ret_attributes)
{
	return m->rules && (m->rules->sets & 1u << attribute) && call->inode &&
	       call->operation == MESSAGE_lookup &&
	       rules_of_name(m, call->inode, slice_of(call->names[0]), false, ret_attributes);
}

enum client_channel rules_channel(struct mount *m, const struct call *call)
{
	struct rules_attributes a;
	uint64_t compression = RULES_COMPRESSION_AUTO;

	if (said_of_lookup(m, call, RULES_COMPRESSION, &a))
		compression = a.values[RULES_COMPRESSION];
	else if (call->inode && call->message.type == MESSAGE_read)
		compression = rules_value(m, call->inode, RULES_COMPRESSION);
	if (compression == RULES_COMPRESSION_OFF)
		return call->ahead ? CLIENT_AHEAD_PLAIN : CLIENT_DATA_PLAIN;
	return call->ahead ? CLIENT_AHEAD : CLIENT_DATA;
}

bool rules_fail_call(struct mount *m, const struct call *call)
{
	struct rules_attributes a;

	if (said_of_lookup(m, call, RULES_DISCONNECTED, &a) &&
	    a.values[RULES_DISCONNECTED] != RULES_DISCONNECTED_MOUNT)
		return a.values[RULES_DISCONNECTED] == RULES_DISCONNECTED_FAIL;
	if (!call->inode)
		return session_fails_at_once(m);
	return rules_disconnected(m, call->inode) == RULES_DISCONNECTED_FAIL;
}

bool rules_fail_call_now(struct mount *m, const struct call *call)
{
	bool fails;

	pthread_mutex_lock(&m->lock);
	fails = rules_fail_call(m, call);
	pthread_mutex_unlock(&m->lock);
	return fails;
}

bool rules_set(const struct mount *m, enum rules_attribute attribute, enum rules_attribute other)
{
	return m->rules && (m->rules->sets & (1u << attribute | 1u << other));
}

bool rules_limit_guesses(const struct mount *m)
{
	return rules_set(m, RULES_PREFETCH, RULES_META_ONLY) || rules_set(m, RULES_ADMIT, RULES_ADMIT);
}

bool rules_may_guess(const struct rules_attributes *a)
{
	uint64_t amount = rules_amount(a);

	/* What nobody opened yet would not be kept. */
	return amount != RULES_AMOUNT_OFF && amount != RULES_AMOUNT_METADATA &&
	       a->values[RULES_ADMIT] == RULES_ADMIT_FIRST;
}

uint64_t rules_on(const struct rules_attributes *a, unsigned when)
{
	uint64_t amount = rules_amount(a);

	if (!(rules_when(a) & when) || amount == RULES_AMOUNT_METADATA ||
	    amount == RULES_AMOUNT_OFF || a->values[RULES_ADMIT] != RULES_ADMIT_FIRST)
		return 0;
	return amount >= RULES_AMOUNT_BYTES ? amount - RULES_AMOUNT_BYTES : UINT64_MAX;
}

int8_t rules_priority(const struct rules_attributes *a)
{
	uint64_t value = a->values[RULES_PRIORITY];

	return value == RULES_PRIORITY_HIGH ? PRIORITY_HIGH :
	       value == RULES_PRIORITY_LOW  ? PRIORITY_LOW :
					      PRIORITY_NORMAL;
}

int8_t rules_priority_of(struct mount *m, const struct intent *intent)
{
	const struct slice name = { (const uint8_t *)intent->name, intent->name_length };
	bool in = intent->type == INTENT_RANGE || intent->type == INTENT_LIST;
	struct inode *inode = inode_by_nodeid(m, in ? intent->inode : intent->directory);
	struct rules_attributes a;

	if (!inode || !rules_set(m, RULES_PRIORITY, RULES_PRIORITY))
		return PRIORITY_NORMAL;
	if (intent->type == INTENT_FILE)
		(void)rules_of_name(m, inode, name, false, &a);
	else
		(void)rules_of(m, inode, &a);
	return rules_priority(&a);
}

unsigned rules_when_any(const struct mount *m)
{
	return m->rules ? m->rules->whens : 0;
}

bool rules_lead(struct mount *m, const struct inode *directory, struct slice name, unsigned when)
{
	struct rules_state *s = m->rules;
	struct way w;

	if (!(rules_when_any(m) & when) || !way_find(m, directory, name, true, &w))
		return false;
	for (uint32_t i = 0; i < w.count; i++) {
		struct policy *policy = policy_of(s, w.places[i].directory);

		if (policy && policy->rules &&
		    rules_leads(policy->rules, when, way_from(&w, w.places[i].at)))
			return true;
	}
	return s->mount && rules_leads(s->mount, when, way_from(&w, w.root_at));
}

uint64_t rules_serial(const struct mount *m)
{
	return m->rules ? atomic_load(&m->rules->serial) : 0;
}

void rules_each_on_mount(struct mount *m, rules_found *found, void *context)
{
	struct rules_state *s = m->rules;
	struct inode *root = inode_by_nodeid(m, FUSE_ROOT_ID);
	struct policy *policy, *next;
	struct slice below;
	uint32_t index = 0;

	if (!s || !root)
		return;
	while (s->mount && rules_on_mount(s->mount, &index, &below))
		found(context, root, below, 0);
	HASH_ITER(hh, s->policies, policy, next) {
		const char *rest = NULL;
		struct inode *directory = policy->inode;

		for (uint32_t i = 0; i < s->above_count; i++)
			if (s->above_inodes[i] == policy->inode)
				rest = m->subdirectory + s->above[i].path_at;
		index = 0;
		while (policy->rules && rules_on_mount(policy->rules, &index, &below)) {
			/* Of what is above the mount's root only what is below it is seen here. */
			for (; rest && *rest == '/'; rest++)
				;
			if (rest) {
				size_t length = strlen(rest), common;

				while (length > 0 && rest[length - 1] == '/')
					length--;
				common = below.length < length ? below.length : length;
				if (memcmp(below.data, rest, common) != 0 ||
				    (below.length > length && below.data[length] != '/'))
					continue;
				directory = root;
				below.data += below.length > length ? length + 1 : below.length;
				below.length = below.length > length ? below.length - length - 1 : 0;
			}
			found(context, directory, below, XXH3_64bits(policy->text, policy->length));
		}
	}
}

/* ---- telling it ---- */

static void tell_line(FILE *out, const struct way *w, const struct rules *rules, unsigned layer,
		      unsigned number)
{
	struct slice text = { NULL, 0 };
	uint32_t i = 0;

	while (i < rules_count(rules) && rules_line(rules, i, &text, NULL) != number)
		i++;
	if (layer == RULES_LAYER_MOUNT) {
		fputs("--policy", out);
	} else {
		size_t at = w->places[w->count - 1 - layer].at, length;

		length = at - w->at;
		if (length > 0 && w->bytes[at - 1] == '/')
			length--;
		fprintf(out, "/%.*s", (int)length, w->bytes + w->at);
	}
	fprintf(out, ":%u: %.*s\n", number, (int)text.length, text.data ? (const char *)text.data : "");
}

char *rules_text(struct mount *m, struct inode *inode)
{
	const struct rules *rules_at[UINT8_MAX + 1] = { NULL };
	struct rules_attributes a;
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);
	struct way *w = malloc(sizeof(*w));
	bool bad;

	rules_attributes_init(&a);
	if (out && w) {
		pthread_mutex_lock(&m->lock);
		if (m->rules && m->rules->any &&
		    way_find(m, inode, (struct slice){ NULL, 0 }, S_ISDIR(inode->type), w))
			way_match(m, w, &a, rules_at);
		/* Into memory: no system call. */
		for (unsigned i = 0; i < RULES_ATTRIBUTE_COUNT; i++) {
			char value[RULES_VALUE_BYTES];

			if (a.lines[i] == 0 || !rules_at[a.layers[i]])
				continue;
			rules_value_text(i, a.values[i], value);
			fprintf(out, "%s=%s  # ", rules_attribute_name(i), value);
			tell_line(out, w, rules_at[a.layers[i]], a.layers[i], a.lines[i]);
		}
		pthread_mutex_unlock(&m->lock);
	}
	free(w);
	bad = !out || fclose(out) != 0;
	if (bad) {
		free(text);
		return NULL;
	}
	return text;
}

/* ---- life ---- */

int rules_read(const char *file, char **ret_text)
{
	char *text = malloc(RULES_TEXT_BYTES_MAX + 2);
	FILE *in = fopen(file, "re");
	struct rules_error error;
	struct rules *rules;
	int r = in && text ? 0 : !text ? -ENOMEM : -errno;
	size_t length = 0;

	if (r == 0) {
		length = fread(text, 1, RULES_TEXT_BYTES_MAX + 1, in);
		r = ferror(in) ? -errno : 0;
	}
	if (in)
		(void)fclose(in); /* it was only read */
	if (r < 0) {
		mount_log("error", "policy %s: %s", file, strerror(-r));
		free(text);
		return r;
	}
	text[length] = '\0';
	r = rules_compile(&session_allocator, (struct slice){ (uint8_t *)text, length }, &rules, &error);
	if (r == -EINVAL)
		mount_log("error", "policy %s: line %u, column %u: %s", file, error.line, error.column,
			  error.text);
	if (r < 0) {
		free(text);
		return r;
	}
	rules_destroy(rules);
	*ret_text = text;
	return 0;
}

int rules_create(struct mount *m)
{
	const char *text = m->options->policy_text;
	struct rules_state *s = calloc(1, sizeof(*s));
	pthread_condattr_t attributes;
	struct rules_error error;
	int r = 0;

	if (!s)
		return -ENOMEM;
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&s->changed, &attributes);
	pthread_condattr_destroy(&attributes);
	m->rules = s;
	if (!text || !*text)
		return 0;
	r = rules_compile(&session_allocator, slice_of(text), &s->mount, &error);
	if (r == -EINVAL)
		mount_log("error", "policy %s: line %u, column %u: %s", m->options->policy,
			  error.line, error.column, error.text);
	if (r == 0)
		count_what_is_set(m);
	return r;
}

void rules_above(struct mount *m, const struct item_node *node, const char *rest)
{
	struct rules_state *s = m->rules;
	struct above *above;

	if (!s || s->above_count >= RULES_DEPTH_MAX)
		return;
	above = &s->above[s->above_count++];
	above->handle = node->handle;
	above->mode = node->attributes.mode;
	above->path_at = (size_t)(rest - m->subdirectory);
}

int rules_start(struct mount *m)
{
	struct rules_state *s = m->rules;
	struct inode *inode;
	struct policy *policy;
	struct keep_lines lines;
	uint32_t count = 0;
	int r = 0;

	keep_lines_make(m, NULL, s->mount, &lines);
	keep_lines_stand(m, &lines);
	pthread_mutex_lock(&m->lock);
	for (uint32_t i = 0; i <= s->above_count; i++) {
		inode = i == s->above_count ? inode_by_nodeid(m, FUSE_ROOT_ID) :
					      inode_get(m, &s->above[i].handle, s->above[i].mode);
		policy = inode ? policy_add(m, inode) : NULL;
		if (policy) {
			policy->kept = true;
			policy->wanted = true;
		}
		if (i < s->above_count && inode) {
			s->above_inodes[count++] = inode;
			inode_unuse(m, inode); /* the policy has one */
		}
		if (!policy)
			r = -ENOMEM;
	}
	s->above_count = count;
	pthread_mutex_unlock(&m->lock);
	if (r == 0)
		r = -pthread_create(&s->thread, NULL, run, m);
	s->started = r == 0;
	return r;
}

void rules_stop(struct mount *m)
{
	struct rules_state *s = m->rules;

	if (!s || !s->started)
		return;
	pthread_mutex_lock(&m->lock);
	s->stopping = true;
	pthread_cond_signal(&s->changed);
	pthread_mutex_unlock(&m->lock);
	pthread_join(s->thread, NULL);
	s->started = false;
}

void rules_destroy_all(struct mount *m)
{
	struct rules_state *s = m->rules;
	struct policy *policy, *next;

	if (!s)
		return;
	pthread_mutex_lock(&m->lock);
	HASH_ITER(hh, s->policies, policy, next)
		policy_remove(m, policy);
	m->rules = NULL;
	pthread_mutex_unlock(&m->lock);
	rules_destroy(s->mount);
	pthread_cond_destroy(&s->changed);
	free(s);
}
