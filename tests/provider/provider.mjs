// An independent OpenID provider for the tests: panva's oidc-provider, which is certified, with its own sign-in pages.
// node provider.mjs CONFIG: a JSON file with port, keys, accounts (subject -> claims) and clients. It prints "ready".
import { readFileSync } from "node:fs";
import { Provider } from "oidc-provider";

const config = JSON.parse(readFileSync(process.argv[2], "utf8"));
const provider = new Provider(config.issuer, {
  clients: config.clients,
  jwks: config.jwks,
  cookies: { keys: ["for the tests alone"] },
  conformIdTokenClaims: false,
  claims: { openid: ["sub", "sid"], profile: ["preferred_username", "name", "groups"], email: ["email"] },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, ...config.accounts[id] }) }),
  features: {
    devInteractions: { enabled: true },
    backchannelLogout: { enabled: true },
    clientCredentials: { enabled: true },
    deviceFlow: { enabled: true },
    rpInitiatedLogout: { enabled: true },
    userinfo: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      useGrantedResource: () => true,
      getResourceServerInfo: (_, indicator) => ({
        scope: "openid profile email offline_access",
        audience: indicator,
        accessTokenFormat: "jwt",
        accessTokenTTL: config.lifetime,
        jwt: { sign: { alg: "RS256" } },
      }),
    },
  },
  ttl: { AccessToken: config.lifetime, Session: 3600, Grant: 3600, Interaction: 600, DeviceCode: 600, IdToken: 600, RefreshToken: 3600 },
  issueRefreshToken: (_, client) => client.grantTypeAllowed("refresh_token"),
  renderError: (ctx, out) => { ctx.type = "text/plain"; ctx.body = JSON.stringify(out); },
});
provider.listen(config.port, "127.0.0.1", () => console.log("ready"));
