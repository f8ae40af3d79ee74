/* SPDX-License-Identifier: Apache-2.0 */
/*
 * access.c - decisions about access, all of them, made anew each time from what a region and a session are:
 *
 *   region     its own session    sessions that a rule names           everybody else
 *   private    everything         -                                    nothing
 *   shared     everything         data and metadata may be read,       nothing
 *                                 data written if a rule says so
 *
 * Several rules that name one session add up. Rules do not change. ANYBODY is whoever has a session here. USER is a
 * session whose connections, all that it ever had, were unix sockets of that user: the kernel says who that is. Whoever
 * knows a session's token may attach to it from elsewhere, over tcp, verbs or as another user, and from then on the session
 * is no particular user's: what it has mapped by then it keeps. Over tcp and verbs nobody is known, so that
 * no rule for a user ever names a session from there, also not the rule for the user that is -1.
 *
 * Over a unix socket a session is made only for the appliance's own user or root, and only those are handed memory
 * objects of others' regions; over tcp for anybody who reaches the port (the listener is loopback unless an address
 * was given). Attaching to a session takes its token, whoever asks. Pure functions of their arguments.
 */
#include "appliance/appliance.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define DATA (XM_WIRE_RIGHT_READ | XM_WIRE_RIGHT_WRITE)

static uint32_t uid_of(const struct xm_wire_rule *rule)
{
	const uint8_t *p = rule->principal;

	return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static bool names(const struct xm_wire_rule *rule, const struct xm_session *s)
{
	switch (rule->kind) {
	case XM_WIRE_RULE_ANYBODY: return true;
	case XM_WIRE_RULE_USER: return s->one_user && s->uid == uid_of(rule);
	default: return false;
	}
}

uint32_t xm_access_rights(const struct xm_session *s, const struct xm_region *r)
{
	uint32_t rights = 0;

	if (r->session == s)
		return XM_WIRE_RIGHTS_OWN;
	if (r->type != XM_WIRE_REGION_SHARED)
		return 0;
	for (unsigned i = 0; i < XM_WIRE_RULES; i++)
		if (names(&r->rules[i], s))
			rights |= r->rules[i].rights & DATA;
	return rights;
}

int xm_access_region(const struct xm_session *s, const struct xm_region *r, enum xm_access_right right)
{
	static const uint32_t needed[] = { [XM_ACCESS_DATA_READ] = XM_WIRE_RIGHT_READ,
					   [XM_ACCESS_DATA_WRITE] = XM_WIRE_RIGHT_WRITE,
					   [XM_ACCESS_METADATA_READ] = XM_WIRE_RIGHT_READ,
					   [XM_ACCESS_METADATA_WRITE] = XM_WIRE_RIGHT_MANAGE };

	return xm_access_rights(s, r) & needed[right] ? 0 : -EACCES;
}

/* What a later version may give a meaning has none now: zeros. */
static bool is_valid(const struct xm_wire_rule *rule)
{
	static const struct xm_wire_rule none;
	unsigned from = rule->kind == XM_WIRE_RULE_USER ? 4 : 0;

	if (rule->kind == XM_WIRE_RULE_NONE)
		return rule->rights == 0 &&
		       memcmp(rule->principal, none.principal, sizeof(none.principal)) == 0;
	if (rule->kind > XM_WIRE_RULE_USER || (rule->rights != XM_WIRE_RIGHT_READ && rule->rights != DATA))
		return false;
	return memcmp(rule->principal + from, none.principal, sizeof(none.principal) - from) == 0;
}

int xm_access_check_rules(uint32_t type, const struct xm_wire_rule rules[XM_WIRE_RULES])
{
	unsigned used = 0;

	for (unsigned i = 0; i < XM_WIRE_RULES; i++) {
		if (!is_valid(&rules[i]))
			return -EINVAL;
		used += rules[i].kind != XM_WIRE_RULE_NONE;
	}
	return (type == XM_WIRE_REGION_SHARED) == (used > 0) ? 0 : -EINVAL;
}

int xm_access_map(const struct xm_hello_context *c, uint32_t rights)
{
	if (!c->local)
		return -EACCES;
	return rights & XM_WIRE_RIGHT_MANAGE ? 0 : xm_access_new_session(c);
}

int xm_access_new_session(const struct xm_hello_context *c)
{
	if (!c->local || c->uid == 0 || c->uid == geteuid())
		return 0;
	return -EACCES;
}

bool xm_access_token(const struct xm_session *s, const uint8_t token[16])
{
	unsigned differ = 0;

	for (unsigned i = 0; i < sizeof(s->token); i++)
		differ |= (unsigned)(s->token[i] ^ token[i]);
	return differ == 0;
}
